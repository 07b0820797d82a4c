/*
 * session.h
 *	  Whether this session's settings are to be relied on.
 */
#ifndef AMT_SESSION_H
#define AMT_SESSION_H

/* Before and after the settings are defined. */
extern void amt_session_before_settings(void);
extern void amt_session_after_settings(void);

/* Refuse this session from now on; in a parallel worker, like its leader. */
extern void amt_session_refuse(void);
extern bool amt_session_is_refused(void);

/*
 * Raise 42501 if the client's connection options named a setting of ours that
 * its user may not set.  Every function calls this first.
 */
extern void amt_session_check(void);

#endif							/* AMT_SESSION_H */
