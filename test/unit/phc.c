/*
 * phc.c
 *	  Tests of src/phc.c.
 */
#include "phc.h"

#include "tap.h"

#define COUNT(array)	(sizeof(array) / sizeof(array[0]))

#define SALT	"AAECAwQFBgcICQoLDA0ODw"	/* 16 bytes */
#define HASH	"lUTkiXnaPIlt+39/W8AV+zIOgQ+DcviNZtmSHaWiqmU"	/* 32 bytes */
#define GOOD	"$scrypt$ln=14,r=8,p=1$" SALT "$" HASH

static bool
parse(const char *s, size_t len, AmtPhc *phc)
{
	char	   *copy = exact_copy(s, len);
	bool		parsed = amt_phc_parse(copy, len, phc);

	free(copy);
	return parsed;
}

static void
test_parse(void)
{
	/* Written by Python: base64.b64encode(bytes.fromhex(hash)).rstrip(b"=") */
	static const unsigned char hash[32] = {
		0x95, 0x44, 0xe4, 0x89, 0x79, 0xda, 0x3c, 0x89, 0x6d, 0xfb, 0x7f, 0x7f, 0x5b, 0xc0, 0x15, 0xfb,
		0x32, 0x0e, 0x81, 0x0f, 0x83, 0x72, 0xf8, 0x8d, 0x66, 0xd9, 0x92, 0x1d, 0xa5, 0xa2, 0xaa, 0x65
	};
	AmtPhc		phc;
	size_t		i;
	bool		counts = true;

	ok(parse(GOOD, strlen(GOOD), &phc), "a string as we write it is read");
	ok(phc.ln == 14 && phc.r == 8 && phc.p == 1, "the parameters of a string are read");
	for (i = 0; i < 16; i++)
		counts = counts && phc.salt[i] == i;
	ok(phc.salt_len == 16 && counts, "the salt of a string is read");
	ok(phc.hash_len == 32 && memcmp(phc.hash, hash, 32) == 0, "the hash of a string is read");
}

/* A hash that is read is written the same. */
static void
test_read_and_written(void)
{
	static const char *const strings[] = {
		GOOD,
		/* Salts and hashes of each extreme, and each way to end base64. */
		"$scrypt$ln=1,r=1,p=1$AAAAAAAAAAA$MNhq9BiCiSGlk+5KFSEEsA",
		"$scrypt$ln=4,r=3,p=5$c2FsdC1vZi0xNy1ieXRlcyE$cQmWbRQg7ytiWZ5BkzoiTIiX+Fmp/sWylKrMI5+vnA",
		"$scrypt$ln=10,r=8,p=2$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw$pd7+j4GCh+JFuhfkMAcNhd6dfe1v8nb7G2OM9OUumFo3OZNORFQ8eUaZ+I9w9wF3VuoeZhDk6A84hMn5fAMrWA",
		"$scrypt$ln=14,r=8,p=1$////////////$++++++++++++++++++++++++",
		/* The largest parameters. */
		"$scrypt$ln=20,r=8,p=1$" SALT "$" HASH,
		"$scrypt$ln=15,r=1,p=256$" SALT "$" HASH,
		"$scrypt$ln=22,r=2,p=1$" SALT "$" HASH,
		"$scrypt$ln=1,r=131072,p=1$" SALT "$" HASH,
		"$scrypt$ln=1,r=1,p=131072$" SALT "$" HASH
	};
	size_t		i;

	for (i = 0; i < COUNT(strings); i++)
	{
		AmtPhc		phc;
		char		text[AMT_PHC_MAX] = "";

		ok(parse(strings[i], strlen(strings[i]), &phc), "this string is read: %.60s", strings[i]);
		ok(amt_phc_format(&phc, text) == strlen(strings[i]), "a string that was read is written in the same length");
		is_text(text, strings[i], "a string that was read is written the same");
	}
}

static void
test_refused(void)
{
#define REFUSED(s, why)	{s, sizeof(s) - 1, why}
	static const struct
	{
		const char *text;
		size_t		len;
		const char *why;
	}			cases[] = {
		REFUSED("", "nothing"),
		REFUSED("$", "a dollar"),
		REFUSED("$scrypt$", "the name alone"),
		REFUSED("x" GOOD, "something before"),
		REFUSED(" " GOOD, "a blank before"),
		REFUSED(GOOD "x=", "something behind"),
		REFUSED(GOOD " ", "a blank behind"),
		REFUSED(GOOD "\n", "a newline behind"),
		REFUSED(GOOD "\0", "a NUL behind"),
		REFUSED(GOOD "$", "a dollar behind"),
		REFUSED(GOOD "$" HASH, "one part too many"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT, "no hash"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT "$", "an empty hash"),
		REFUSED("$scrypt$ln=14,r=8,p=1$$" HASH, "an empty salt"),
		REFUSED("$scrypt$ln=14,r=8,p=1" SALT "$" HASH, "no dollar before the salt"),

		REFUSED("$Scrypt$ln=14,r=8,p=1$" SALT "$" HASH, "another case"),
		REFUSED("$argon2id$v=19$m=65536,t=3,p=4$" SALT "$" HASH, "another algorithm"),
		REFUSED("$scrypt$v=1$ln=14,r=8,p=1$" SALT "$" HASH, "a version"),
		REFUSED("$7$CU..../....", "crypt's own format"),
		REFUSED("$scrypt$r=8,ln=14,p=1$" SALT "$" HASH, "another order"),
		REFUSED("$scrypt$ln=14,r=8$" SALT "$" HASH, "a parameter missing"),
		REFUSED("$scrypt$ln=14,r=8,p=1,x=1$" SALT "$" HASH, "a parameter too many"),
		REFUSED("$scrypt$ln=14, r=8, p=1$" SALT "$" HASH, "blanks between parameters"),
		REFUSED("$scrypt$n=14,r=8,p=1$" SALT "$" HASH, "another name of a parameter"),

		REFUSED("$scrypt$ln=,r=8,p=1$" SALT "$" HASH, "no number"),
		REFUSED("$scrypt$ln=014,r=8,p=1$" SALT "$" HASH, "a leading zero"),
		REFUSED("$scrypt$ln=14,r=08,p=1$" SALT "$" HASH, "a leading zero of r"),
		REFUSED("$scrypt$ln=+14,r=8,p=1$" SALT "$" HASH, "a plus"),
		REFUSED("$scrypt$ln=14,r=-8,p=1$" SALT "$" HASH, "a minus"),
		REFUSED("$scrypt$ln= 14,r=8,p=1$" SALT "$" HASH, "a blank before a number"),
		REFUSED("$scrypt$ln=0xE,r=8,p=1$" SALT "$" HASH, "a hexadecimal number"),
		REFUSED("$scrypt$ln=14.0,r=8,p=1$" SALT "$" HASH, "a fraction"),
		REFUSED("$scrypt$ln=0,r=8,p=1$" SALT "$" HASH, "ln zero"),
		REFUSED("$scrypt$ln=14,r=0,p=1$" SALT "$" HASH, "r zero"),
		REFUSED("$scrypt$ln=14,r=8,p=0$" SALT "$" HASH, "p zero"),
		REFUSED("$scrypt$ln=21,r=8,p=1$" SALT "$" HASH, "more than 1 GiB by ln"),
		REFUSED("$scrypt$ln=20,r=9,p=1$" SALT "$" HASH, "more than 1 GiB by r"),
		REFUSED("$scrypt$ln=20,r=8,p=2$" SALT "$" HASH, "more than 1 GiB by p"),
		REFUSED("$scrypt$ln=16,r=1,p=1$" SALT "$" HASH, "N not below 2^(16 r)"),
		REFUSED("$scrypt$ln=999999999,r=8,p=1$" SALT "$" HASH, "nine digits"),
		REFUSED("$scrypt$ln=1,r=1000000000,p=1$" SALT "$" HASH, "ten digits"),
		REFUSED("$scrypt$ln=1,r=4294967297,p=1$" SALT "$" HASH, "2^32 + 1"),
		REFUSED("$scrypt$ln=1,r=1,p=18446744073709551617$" SALT "$" HASH, "2^64 + 1"),

		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT "==$" HASH, "padding of the salt"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT "$" HASH "=", "padding of the hash"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODx$" HASH, "stray bits in the salt (two digits)"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT "$lUTkiXnaPIlt+39/W8AV+zIOgQ+DcviNZtmSHaWiqmV", "stray bits in the hash (three digits)"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT "AAA$" HASH, "a single digit left over"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0OD-$" HASH, "the URL alphabet"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0OD_$" HASH, "the URL alphabet's other digit"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcI.QoLDA0ODw$" HASH, "crypt's alphabet"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcI\nQoLDA0ODw$" HASH, "a newline in the salt"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcI\0QoLDA0ODw$" HASH, "a NUL in the salt"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAECAwQFBgcI\303QoLDA0ODw$" HASH, "a byte above ASCII in the salt"),
		REFUSED("$scrypt$ln=14,r=8,p=1$AAAAAAAAAA$" HASH, "a salt of 7 bytes"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT SALT SALT SALT "$" HASH, "a salt of 66 bytes"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT "$AAECAwQFBgcICQoLDA0O", "a hash of 15 bytes"),
		REFUSED("$scrypt$ln=14,r=8,p=1$" SALT "$" SALT SALT SALT SALT, "a hash of 66 bytes")
	};
	AmtPhc		phc;
	size_t		i;
	int			slips = 0;

	for (i = 0; i < COUNT(cases); i++)
		ok(!parse(cases[i].text, cases[i].len, &phc), "a string with this is refused: %s", cases[i].why);
	/* 22 of the hash's 43 digits make the 16 bytes that it must have. */
	for (i = 0; i < strlen(GOOD) - 43 + 22; i++)
		slips += parse(GOOD, i, &phc);
	ok(slips == 0, "every beginning of a string that is too short is refused");
}

/* One spelling for each hash: whatever one byte becomes, it reads back as that. */
static void
test_canonical(void)
{
	char		text[] = GOOD;
	int			read = 0;
	int			differ = 0;
	size_t		at;
	int			byte;

	for (at = 0; at < strlen(GOOD); at++)
	{
		for (byte = 0; byte < 256; byte++)
		{
			AmtPhc		phc;
			char		again[AMT_PHC_MAX];

			text[at] = (char) byte;
			if (!parse(text, strlen(GOOD), &phc))
				continue;
			read++;
			if (amt_phc_format(&phc, again) != strlen(GOOD) || memcmp(again, text, sizeof(text)) != 0)
				differ++;
		}
		text[at] = GOOD[at];
	}
	note("%d of %zu changes of one byte make another usable string", read, 255 * strlen(GOOD));
	ok(read > 63 * 60 && differ == 0, "a string that is read is always written the same");
}

static void
test_params(void)
{
	static const struct
	{
		int64_t		ln;
		int64_t		r;
		int64_t		p;
		bool		fine;
	}			cases[] = {
		{1, 1, 1, true}, {14, 8, 1, true}, {15, 1, 1, true}, {16, 1, 1, false}, {16, 2, 1, true},
		{20, 8, 1, true}, {20, 8, 2, false}, {20, 9, 1, false}, {21, 8, 1, false}, {21, 4, 1, true},
		{17, 8, 8, true}, {17, 8, 9, false}, {22, 2, 1, true}, {22, 1, 2, false}, {23, 2, 1, false},
		{1, 1, 131072, true}, {1, 1, 131073, false}, {1, 131072, 1, true}, {1, 131073, 1, false},
		{1, 256, 512, true}, {1, 257, 512, false}, {6, 1, 131072, true}, {7, 1, 131072, false},
		{0, 8, 1, false}, {14, 0, 1, false}, {14, 8, 0, false}, {-1, 8, 1, false}, {14, -8, 1, false},
		{14, 8, -1, false}, {14, -8, -1, false}, {62, 8, 1, false}, {63, 8, 1, false}, {64, 8, 1, false},
		{65, 8, 1, false}, {78, 8, 1, false}, {INT32_MAX, INT32_MAX, INT32_MAX, false},
		{INT64_MAX, 8, 1, false}, {14, INT64_MAX, 1, false}, {14, 8, INT64_MAX, false},
		{INT64_MIN, 8, 1, false}, {14, INT64_MIN, 1, false}, {14, 8, INT64_MIN, false},
		{INT64_MAX, INT64_MAX, INT64_MAX, false}, {INT64_MIN, INT64_MIN, INT64_MIN, false},
		{1, INT64_C(1) << 32, INT64_C(1) << 32, false}, {1, (INT64_C(1) << 60) + 1, 16, false}
	};
	size_t		i;

	for (i = 0; i < COUNT(cases); i++)
		ok(amt_scrypt_params_ok(cases[i].ln, cases[i].r, cases[i].p) == cases[i].fine,
		   "ln=%lld r=%lld p=%lld %s", (long long) cases[i].ln, (long long) cases[i].r,
		   (long long) cases[i].p, cases[i].fine ? "can be run" : "cannot be run");
}

/* The widest that can be written has room, usable or not. */
static void
test_room(void)
{
	AmtPhc		phc;
	char	   *text = malloc(AMT_PHC_MAX);
	size_t		len;

	if (text == NULL)
		abort();
	memset(&phc, 0xFF, sizeof(phc));
	phc.ln = phc.r = phc.p = INT32_MIN;
	phc.salt_len = AMT_SALT_MAX;
	phc.hash_len = AMT_HASH_MAX;
	len = amt_phc_format(&phc, text);
	ok(len < AMT_PHC_MAX && len == strlen(text), "the widest string of %zu characters fits", len);
	free(text);
}

int
main(void)
{
	test_parse();
	test_read_and_written();
	test_refused();
	test_canonical();
	test_params();
	test_room();
	return done_testing();
}
