/*
 * redact.h
 *	  Masking secrets in the server's log.
 */
#ifndef AMT_REDACT_H
#define AMT_REDACT_H

extern void amt_redact_init(void);

#endif							/* AMT_REDACT_H */
