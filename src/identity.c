/*
 * identity.c
 *	  The identity of the caller, and its rights.
 *
 * Five settings hold the identity.  PostgreSQL protects them: only a
 * superuser, or a role that was granted SET on them, can change them.  They
 * must be read through this library, never by current_setting(): before the
 * library is loaded, anybody can make a placeholder of that name.
 *
 * C code sets them as SET LOCAL does.  The value ends with the transaction,
 * savepoints restore it, and parallel workers receive it.
 *
 * SQL that was smuggled into a request can take back the session user's
 * rights.  So amt_authenticate() seals the identity until the end of the
 * transaction.  Under the seal SET is refused.  RESET and ROLLBACK TO call
 * no check hook.  So the seal keeps digests of the identities that C code
 * has set.  Any other combination of the five settings is no identity.  The
 * seal is in this process's memory, tied to the transaction's number.  A
 * sixth setting, which is not transactional, carries a copy to parallel
 * workers.
 *
 * In a security-restricted operation there is no identity.  There a table
 * owner's code runs, in maintenance or because we write a table.  It must
 * not act as the caller.
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "compat.h"
#include "identity.h"
#include "roles.h"
#include "session.h"
#include "sha256.h"

#define NPARTS			5
#define MAX_SEALED		16
#define DIGEST_LEN		AMT_SHA256_LEN
#define REFUSED			"refused"	/* followed by an AmtRefusal */
#define SEAL_HEAD		(1 + 2 * sizeof(LocalTransactionId))	/* before the digests */
#define SEAL_TEXT		(SEAL_HEAD + 2 * sizeof(seal.digest) + 1)

static char *part_setting[NPARTS];	/* in the order of AmtIdentity */
static const struct config_generic *part_config[NPARTS];
static char *seal_setting = NULL;

static const char *const part_name[NPARTS] = {
	"amt_keys.org_id", "amt_keys.role", "amt_keys.scopes", "amt_keys.actor", "amt_keys.key_id"
};

/* The identities that are valid under the seal. */
static struct
{
	LocalTransactionId transaction; /* the sealed transaction; it may have
									 * ended */
	int			n;				/* digests in use */
	uint8		digest[MAX_SEALED][DIGEST_LEN];
}			seal;

/* Are the settings being defined?  Values from before are checked then. */
static bool defining = false;

/* Is C code setting the identity or the seal? */
static bool setting = false;

/* Are the current settings valid under the seal?  Known until one changes. */
static bool holds;
static bool holds_known = false;

/* Are the current settings valid in the encoding of the database? */
static bool encoding_known = false;

/* Have the stored values been compared, and are parallel workers told? */
static bool stored_known = false;
static bool stored_told = false;

bool
amt_identity_is_sealed(void)
{
	return LocalTransactionIdIsValid(seal.transaction) &&
		seal.transaction == amt_leader_transaction_id();
}

/* A digest of the five settings. */
static void
make_digest(uint8 digest[DIGEST_LEN])
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < NPARTS; i++)
	{
		const char *part = part_setting[i] != NULL ? part_setting[i] : "";

		/* With its NUL, or parts could run into one another. */
		appendBinaryStringInfo(&text, part, strlen(part) + 1);
	}
	amt_sha256(text.data, text.len, digest);
	pfree(text.data);
}

static bool
is_in_seal(const uint8 digest[DIGEST_LEN])
{
	for (int i = 0; i < seal.n; i++)
		if (memcmp(seal.digest[i], digest, DIGEST_LEN) == 0)
			return true;
	return false;
}

static bool
settings_hold(void)
{
	uint8		digest[DIGEST_LEN];

	if (!holds_known)
	{
		make_digest(digest);
		holds = is_in_seal(digest);
		holds_known = true;
	}
	return holds;
}

/*
 * Give the seal to parallel workers that start from now on: whether the
 * stored values were compared, the number of the transaction and the digests
 * in hexadecimal, or that the session is refused.  If publishing fails, a
 * worker would believe more than its leader does, so the session ends.
 */
static void
publish_seal(void)
{
	char		text[SEAL_TEXT];
	char	   *end = text;
	bool		was_setting = setting;

	if (amt_session_refusal() != AMT_NOT_REFUSED)
		snprintf(text, sizeof(text), REFUSED "%d", amt_session_refusal());
	else
	{
		*end++ = stored_known ? '1' : '0';
		end += hex_encode((char *) &seal.transaction, sizeof(seal.transaction), end);
		end += hex_encode((char *) seal.digest, seal.n * DIGEST_LEN, end);
		*end = '\0';
	}
	setting = true;
	PG_TRY();
	{
		SetConfigOption("amt_keys.seal", text, PGC_SUSET, PGC_S_OVERRIDE);
	}
	PG_CATCH();
	{
		FlushErrorState();
		ereport(FATAL,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not tell parallel workers whether the identity holds")));
	}
	PG_END_TRY();
	setting = was_setting;
}

/* The refusal that publish_seal() has written. */
static AmtRefusal
refusal_in(const char *s)
{
	Size		head = strlen(REFUSED);
	bool		is_refusal = strncmp(s, REFUSED, head) == 0 && s[head] > '0' + AMT_NOT_REFUSED &&
	s[head] <= '0' + AMT_REFUSED_VALUE && s[head + 1] == '\0';

	return is_refusal ? s[head] - '0' : AMT_NOT_REFUSED;
}

/* Could publish_seal() have written this? */
static bool
is_published_seal(const char *s)
{
	Size		len = strlen(s);

	return refusal_in(s) != AMT_NOT_REFUSED ||
		(len >= SEAL_HEAD && len - SEAL_HEAD <= 2 * sizeof(seal.digest) &&
		 (len - SEAL_HEAD) % (2 * DIGEST_LEN) == 0 &&
		 strspn(s, "0123456789abcdef") == len);
}

/* In a parallel worker: take over the leader's seal. */
static void
assign_seal(const char *newval, void *extra)
{
	if (!IsParallelWorker() || newval == NULL || *newval == '\0')
		return;
	stored_known = *newval != '0';
	if (refusal_in(newval) != AMT_NOT_REFUSED)
	{
		amt_session_refuse(refusal_in(newval));
		return;
	}
	seal.n = (strlen(newval) - SEAL_HEAD) / (2 * DIGEST_LEN);
	(void) hex_decode(newval + 1, SEAL_HEAD - 1, (char *) &seal.transaction);
	(void) hex_decode(newval + SEAL_HEAD, seal.n * 2 * DIGEST_LEN, (char *) seal.digest);
	holds_known = false;
}

/* From now on the current settings are valid under the seal. */
static void
add_to_seal(void)
{
	uint8		digest[DIGEST_LEN];

	make_digest(digest);
	if (!is_in_seal(digest))
	{
		if (seal.n == MAX_SEALED)
			memmove(seal.digest[0], seal.digest[1], --seal.n * DIGEST_LEN);
		memcpy(seal.digest[seal.n++], digest, DIGEST_LEN);
		publish_seal();
	}
	holds = true;
	holds_known = true;
}

void
amt_identity_seal(void)
{
	if (amt_identity_is_sealed())
		return;
	seal.n = 0;
	holds_known = false;
	seal.transaction = amt_leader_transaction_id();
	publish_seal();
	amt_identity_compare();		/* after that: somebody may catch its error */
}

static bool
refuse_setting(const char *detail)
{
	GUC_check_errcode(ERRCODE_INSUFFICIENT_PRIVILEGE);
	GUC_check_errmsg("permission denied to set the identity");
	GUC_check_errdetail("%s", detail);
	return false;
}

/*
 * At session start, and when the library is loaded, the server discards an
 * invalid value with a mere warning.  The identity is then not known.  Later,
 * one in a configuration file leaves the old value in force.
 */
static void
refuse_if_silent(GucSource source)
{
	if (!defining && (source <= PGC_S_FILE || source >= PGC_S_TEST))
		return;
	amt_session_refuse(AMT_REFUSED_VALUE);
	if (!defining && !IsParallelWorker())
		publish_seal();
}

/*
 * Called for SET, ALTER ROLE SET and the like, but not when a savepoint
 * restores a value.
 */
static bool
check_identity(char **newval, void **extra, GucSource source)
{
	if (!setting && source >= PGC_S_TEST && !IsParallelWorker() && amt_identity_is_sealed())
		return refuse_setting("The identity was decided by amt_authenticate() and stays until the end of the transaction.");
	if (!pg_verify_mbstr(GetDatabaseEncoding(), *newval, strlen(*newval), true))
	{
		refuse_if_silent(source);
		GUC_check_errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE);
		GUC_check_errmsg("invalid byte sequence for encoding \"%s\"", GetDatabaseEncodingName());
		return false;
	}
	return true;
}

static bool
check_scopes(char **newval, void **extra, GucSource source)
{
	const char *detail;

	if (!check_identity(newval, extra, source))
		return false;
	if (!amt_scopes_are_valid(*newval, &detail))
	{
		refuse_if_silent(source);
		GUC_check_errdetail("%s", detail);
		return false;
	}
	return true;
}

static bool
check_seal(char **newval, void **extra, GucSource source)
{
	if (setting || source == PGC_S_DEFAULT)
		return true;
	/* A worker first gets what ALTER DATABASE and ALTER ROLE have stored. */
	if (IsParallelWorker() && source == PGC_S_OVERRIDE && is_published_seal(*newval))
		return true;
	return refuse_setting("This setting is for internal use.");
}

static void
assign_identity(const char *newval, void *extra)
{
	holds_known = false;
	encoding_known = false;
}

/*
 * The postmaster reads the configuration before it knows the encoding of any
 * database.  So a backend must check what it has inherited.
 */
static void
check_encoding(void)
{
	for (int i = 0; i < NPARTS; i++)
	{
		const char *s = part_setting[i];

		if (s != NULL && !pg_verify_mbstr(GetDatabaseEncoding(), s, strlen(s), true))
			amt_session_refuse(AMT_REFUSED_VALUE);
	}
	encoding_known = true;
}

void
amt_identity_publish(void)
{
	if (amt_session_refusal() != AMT_NOT_REFUSED)
		publish_seal();
}

void
amt_identity_compare(void)
{
	if (likely(stored_told) || (stored_known && IsInParallelMode()))
		return;
	if (!stored_known)
		amt_session_compare(part_name, NPARTS);
	stored_known = true;
	if (IsInParallelMode())
		return;					/* workers that run now compare themselves */
	publish_seal();
	stored_told = true;
}

static void
define_part(int i, const char *short_desc, const char *long_desc, GucStringCheckHook check)
{
	DefineCustomStringVariable(part_name[i], short_desc, long_desc, &part_setting[i], "",
							   PGC_SUSET, 0, check, assign_identity, NULL);
	part_config[i] = amt_session_setting(part_name[i]);
}

void
amt_identity_expect(void)
{
	for (int i = 0; i < NPARTS; i++)
		amt_session_expect(part_name[i]);
}

void
amt_identity_init(void)
{
	defining = true;
	define_part(0, "Sets the organization that is calling; empty for none.",
				"Row-level security of the extension's tables, and of yours through amt_org_id(), depends on it.",
				check_identity);
	define_part(1, "Sets the caller's role in the organization; one of amt_keys.roles, or empty.",
				"Read it with amt_role(), and test it with amt_has_role().",
				check_identity);
	define_part(2, "Sets the scopes that the caller is narrowed to, separated by commas; empty for no narrowing.",
				"Read them with amt_scopes(), and test them with amt_has_scope(). A single comma is an empty list.",
				check_scopes);
	define_part(3, "Sets the person who is calling, as the application names it; empty for none.",
				"It is recorded as created_by of new keys, and in events.",
				check_identity);
	define_part(4, "Sets the key that is calling; empty if none is.",
				"amt_verify() and amt_authenticate() set it.",
				check_identity);
	DefineCustomStringVariable("amt_keys.seal",
							   "Carries the state of the identity to parallel workers.",
							   NULL,
							   &seal_setting, "",
							   PGC_SUSET,
							   GUC_NO_SHOW_ALL | GUC_NO_RESET_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE |
							   GUC_SUPERUSER_ONLY,
							   check_seal, assign_seal, NULL);
	defining = false;
}

AmtIdentity
amt_identity_recorded(void)
{
	AmtIdentity identity;
	const char **part[NPARTS] = {
		&identity.org_id, &identity.role, &identity.scopes, &identity.actor, &identity.key_id
	};
	bool		valid = !amt_identity_is_sealed() || settings_hold();

	if (unlikely(!encoding_known))
		check_encoding();
	amt_identity_compare();
	amt_session_check();
	for (int i = 0; i < NPARTS; i++)
		*part[i] = valid && part_setting[i] != NULL && part_setting[i][0] != '\0' ?
			part_setting[i] : NULL;
	return identity;
}

AmtIdentity
amt_identity(void)
{
	static const AmtIdentity nobody = {0};
	AmtIdentity identity = amt_identity_recorded();

	return InSecurityRestrictedOperation() ? nobody : identity;
}

void
amt_identity_set(const AmtIdentity *identity)
{
	const char *part[NPARTS] = {
		identity->org_id, identity->role, identity->scopes, identity->actor, identity->key_id
	};

	amt_session_refuse_mix(part_config, NPARTS);
	setting = true;
	PG_TRY();
	{
		for (int i = 0; i < NPARTS; i++)
		{
			/* Each, even if it has the value: a reload could change it. */
			(void) set_config_option(part_name[i], part[i] != NULL ? part[i] : "",
									 PGC_SUSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		}
	}
	PG_FINALLY();
	{
		setting = false;
	}
	PG_END_TRY();
	if (amt_identity_is_sealed())
		add_to_seal();
}

/* Does the identity have an organization and a role of at least this rank? */
static bool
has_rank(const AmtIdentity *identity, int minimum)
{
	return identity->org_id != NULL && identity->role != NULL && minimum >= 0 &&
		amt_role_rank(identity->role) >= minimum;
}

bool
amt_identity_has_role(const char *minimum)
{
	AmtIdentity identity = amt_identity();
	int			rank = amt_role_rank(minimum);

	/* Without an identity the answer is no, even for an unknown role. */
	if (rank < 0 && identity.role != NULL && identity.org_id != NULL)
		amt_unknown_role(minimum);
	return has_rank(&identity, rank);
}

bool
amt_identity_is_manager(void)
{
	AmtIdentity identity = amt_identity();

	return has_rank(&identity, amt_manager_rank());
}

bool
amt_role_may_identify(Oid roleid)
{
	return pg_parameter_aclcheck(part_name[0], roleid, ACL_SET) == ACLCHECK_OK;
}

bool
amt_identity_was_reset(void)
{
	return amt_session_was_reset(part_config[NPARTS - 1]);
}

bool
amt_caller_is_trusted(void)
{
	return !amt_identity_is_sealed() && amt_identity_recorded().key_id == NULL &&
		!amt_identity_was_reset() && amt_role_may_identify(GetUserId());
}
