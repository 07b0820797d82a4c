/*
 * reapply.h
 *	  What the configuration file, ALTER DATABASE and ALTER ROLE set, once more.
 */
#ifndef AMT_REAPPLY_H
#define AMT_REAPPLY_H

/*
 * Before and after the settings are defined.  The first raises an error if they
 * would be lost by loading the library now.
 */
extern void amt_reapply_prepare(void);
extern void amt_reapply(void);

#endif							/* AMT_REAPPLY_H */
