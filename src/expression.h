/*
 * expression.h
 *	  Which expressions run nothing but harmless built-in functions.
 */
#ifndef AMT_EXPRESSION_H
#define AMT_EXPRESSION_H

#include "nodes/nodes.h"

extern bool amt_is_built_in(Oid object);

/* May the expression, or one in the list, run code of others? */
extern bool amt_is_foreign_code(Node *expression);

#endif							/* AMT_EXPRESSION_H */
