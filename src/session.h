/*
 * session.h
 *	  Whether this session's settings can be trusted.
 */
#ifndef AMT_SESSION_H
#define AMT_SESSION_H

/* Called before and after the settings are defined. */
extern void amt_session_before_settings(void);
extern void amt_session_after_settings(void);

/*
 * The value that this setting has now, before it is defined, must not be lost.
 * Otherwise the session is refused.
 */
extern void amt_session_expect(const char *name);

/*
 * Refuse the session if a value that ALTER ROLE or ALTER DATABASE has stored of
 * these settings has not arrived.
 */
extern void amt_session_compare(const char *const *names, int n);

/* The server's entry of a setting, or NULL.  It stays where it is. */
extern const struct config_generic *amt_session_setting(const char *name);

/*
 * Has SET given the setting its value in this transaction, by this user or a
 * role that it can become?  Not if a SECURITY DEFINER function of somebody
 * else did.
 */
extern bool amt_session_has_set(const char *name, Oid user);

/*
 * Has the transaction set the setting and reset it?  RESET ALL asks for no
 * right.
 */
extern bool amt_session_was_reset(const struct config_generic *setting);

/*
 * Does code run with other rights than the session's, as in a SECURITY
 * DEFINER function, an index function or a maintenance command?
 */
extern bool amt_session_has_changed_rights(void);

/*
 * Raise 55000 in a function whose definition sets one of the settings.  When it
 * ends, the server brings back the value of that one, but not of others that
 * belong to it.
 */
extern void amt_session_refuse_mix(const struct config_generic *const *settings, int n);

typedef enum AmtRefusal
{
	AMT_NOT_REFUSED,
	AMT_REFUSED_OPTION,			/* an option names a setting that the user may
								 * not set */
	AMT_REFUSED_EARLY,			/* before the library was loaded, a setting
								 * was set for the user, or set and reset */
	AMT_REFUSED_VALUE			/* a value of the identity is not valid */
} AmtRefusal;

/*
 * Refuse this session from now on.  A parallel worker does so like its
 * leader.
 */
extern void amt_session_refuse(AmtRefusal why);
extern AmtRefusal amt_session_refusal(void);

/* Raise 42501 if the session is refused.  Every SQL function must call this. */
extern void amt_session_check(void);

#endif							/* AMT_SESSION_H */
