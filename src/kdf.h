/*
 * kdf.h
 *	  Hashing new secrets with the parameters that the settings give.
 */
#ifndef AMT_KDF_H
#define AMT_KDF_H

#include "phc.h"
#include "token.h"

extern void amt_kdf_init(void);

/* The PHC string of a new token's secret. */
extern void amt_kdf_hash(const AmtToken *token, char phc[AMT_PHC_MAX]);

#endif							/* AMT_KDF_H */
