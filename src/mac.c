/*
 * mac.c
 *	  The proof in an entry: a MAC of the key, its stored hash and the secret.
 *
 * The key of the MAC is random and lives in memory only.  That is no
 * file, unless dynamic_shared_memory_type is mmap.
 */
#include "postgres.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "miscadmin.h"

#include "entry_private.h"
#include "phc.h"

/*
 * May the context be used again without giving it the key?  That is faster,
 * and OpenSSL promises it, but versions 3.0.0 to 3.0.2 then compute another
 * MAC.
 */
static bool keeps_key = false;

static bool
run_mac(EVP_MAC_CTX *context, const char *message, Size len, uint8 mac[AMT_MAC_LEN])
{
	size_t		mac_len;

	return EVP_MAC_init(context, keeps_key ? NULL : amt_entries->mac_key,
						keeps_key ? 0 : AMT_MAC_KEY_LEN, NULL) == 1 &&
		EVP_MAC_update(context, (const unsigned char *) message, len) == 1 &&
		EVP_MAC_final(context, mac, &mac_len, AMT_MAC_LEN) == 1;
}

static void
find_out_whether_it_keeps_the_key(EVP_MAC_CTX *context)
{
	uint8		with_key[AMT_MAC_LEN];
	uint8		without[AMT_MAC_LEN];

	if (!run_mac(context, "x", 1, with_key))
		return;
	keeps_key = true;
	keeps_key = run_mac(context, "x", 1, without) &&
		memcmp(with_key, without, AMT_MAC_LEN) == 0;
	ERR_clear_error();
}

/*
 * A context with the server's MAC key, made once per process.  NULL if
 * OpenSSL fails.
 */
static EVP_MAC_CTX *
mac_context(void)
{
	static EVP_MAC_CTX *context = NULL;
	EVP_MAC    *mac;
	EVP_MAC_CTX *fresh;
	char		digest[] = "SHA256";
	OSSL_PARAM	params[2];

	if (context != NULL)
		return context;
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0);
	params[1] = OSSL_PARAM_construct_end();
	mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	fresh = mac != NULL ? EVP_MAC_CTX_new(mac) : NULL;
	EVP_MAC_free(mac);
	if (fresh != NULL && EVP_MAC_init(fresh, amt_entries->mac_key, AMT_MAC_KEY_LEN, params) == 1)
	{
		context = fresh;
		find_out_whether_it_keeps_the_key(fresh);
	}
	else
	{
		EVP_MAC_CTX_free(fresh);
		ERR_clear_error();
	}
	return context;
}

/* The message begins with this; id, stored hash and secret follow. */
typedef struct MessageHead
{
	Oid			database;
	Oid			table;
	uint32		id_len;
	uint32		stored_len;
	uint32		secret_len;
} MessageHead;

bool
amt_entry_mac(const AmtKeyRef *ref, const char *stored, Size stored_len,
			  const char *secret, Size secret_len, uint8 mac[AMT_MAC_LEN])
{
	/* In one piece: each update of a MAC takes time. */
	char		message[sizeof(MessageHead) + AMT_ID_MAX + AMT_PHC_MAX + AMT_SECRET_MAX];
	MessageHead head;
	char	   *end = message;
	EVP_MAC_CTX *context = mac_context();
	bool		done;

	if (context == NULL || stored_len > AMT_PHC_MAX || secret_len > AMT_SECRET_MAX)
		return false;
	head.database = MyDatabaseId;
	head.table = ref->table;
	head.id_len = ref->id_len;
	head.stored_len = stored_len;
	head.secret_len = secret_len;
	end = (char *) memcpy(end, &head, sizeof(head)) + sizeof(head);
	end = (char *) memcpy(end, ref->id, ref->id_len) + ref->id_len;
	end = (char *) memcpy(end, stored, stored_len) + stored_len;
	end = (char *) memcpy(end, secret, secret_len) + secret_len;

	done = run_mac(context, message, end - message, mac);
	OPENSSL_cleanse(message, end - message);
	return done;
}
