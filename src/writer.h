/*
 * writer.h
 *	  The background worker that writes counted calls.
 */
#ifndef AMT_WRITER_H
#define AMT_WRITER_H

extern void amt_writer_init(void);

#endif							/* AMT_WRITER_H */
