/*
 * kdf.h
 *	  Hashing new secrets with the parameters that the settings give.
 */
#ifndef AMT_KDF_H
#define AMT_KDF_H

#include "phc.h"
#include "token.h"

extern void amt_kdf_init(void);

/*
 * Does a stored hash cost more than eight times what a new one does, with the
 * settings or with their defaults?
 */
extern bool amt_kdf_is_costly(const AmtPhc *phc);

/* The PHC string of a new token's secret. */
extern void amt_kdf_hash(const AmtToken *token, char phc[AMT_PHC_MAX]);

#endif							/* AMT_KDF_H */
