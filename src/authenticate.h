/*
 * authenticate.h
 *	  The identity of a PostgREST request.
 */
#ifndef AMT_AUTHENTICATE_H
#define AMT_AUTHENTICATE_H

extern void amt_authenticate_init(void);

#endif							/* AMT_AUTHENTICATE_H */
