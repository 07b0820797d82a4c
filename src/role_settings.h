/*
 * role_settings.h
 *	  What ALTER ROLE and ALTER DATABASE set, once more.
 */
#ifndef AMT_ROLE_SETTINGS_H
#define AMT_ROLE_SETTINGS_H

extern void amt_role_settings_apply(void);

#endif							/* AMT_ROLE_SETTINGS_H */
