/*
 * json.c
 *	  Members of a JSON object.
 *
 * The server's parser reads the text once and calls us for each member, so
 * we need no copy of the whole.  It raises an error if the nesting is too
 * deep for the stack, and before version 16 for a character that the
 * database's encoding lacks.  A text that may cause an error is read in a
 * subtransaction, which costs more than the reading.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "attempt.h"
#include "compat.h"
#include "json.h"

#define MAX_PATHS		4
#define SAFE_NESTING	100

typedef struct Search
{
	const char *text;
	AmtJsonMember *members;
	int			n;
	int			depth;			/* objects and arrays around this place */
	int			matched[MAX_PATHS]; /* of each path: how many names led here */
	bool		others;			/* are there members in no path? */
	bool		is_object;		/* is the text a valid object? */
} Search;

/*
 * The name at this place of a path, counted from 1; NULL if the path is
 * shorter.
 */
static const char *
get_name(const char *path, int place, Size *len)
{
	while (--place > 0)
	{
		path = strchr(path, '.');
		if (path == NULL)
			return NULL;
		path++;
	}
	*len = strcspn(path, ".");
	return path;
}

/* Does the path end with the name at this place? */
static bool
ends_at(const char *path, int place)
{
	Size		len;
	const char *name = get_name(path, place, &len);

	return name != NULL && name[len] == '\0';
}

/* Note a value that begins here, for the paths that lead here. */
static void
enter_value(Search *search, AmtJsonKind kind, const char *value)
{
	for (int i = 0; i < search->n; i++)
		if (search->depth > 0 && search->matched[i] == search->depth &&
			ends_at(search->members[i].path, search->depth))
		{
			search->members[i].kind = kind;
			search->members[i].value = value;
		}
}

static AmtJsonResult
start_object(void *state)
{
	Search	   *search = state;

	if (search->depth == 0)
		search->is_object = true;
	enter_value(search, AMT_JSON_OTHER, NULL);
	search->depth++;
	AMT_JSON_DONE;
}

static AmtJsonResult
start_array(void *state)
{
	Search	   *search = state;

	enter_value(search, AMT_JSON_OTHER, NULL);
	search->depth++;
	AMT_JSON_DONE;
}

static AmtJsonResult
end_container(void *state)
{
	((Search *) state)->depth--;
	AMT_JSON_DONE;
}

/* A member begins.  It replaces an earlier one of the same name. */
static AmtJsonResult
start_member(void *state, char *member_name, bool isnull)
{
	Search	   *search = state;
	bool		known = false;

	for (int i = 0; i < search->n; i++)
	{
		AmtJsonMember *member = &search->members[i];
		Size		len;
		const char *name;

		if (search->matched[i] < search->depth - 1)
			continue;
		search->matched[i] = search->depth - 1;
		name = get_name(member->path, search->depth, &len);
		if (name == NULL || strlen(member_name) != len || memcmp(member_name, name, len) != 0)
			continue;
		search->matched[i] = search->depth;
		member->kind = AMT_JSON_NOTHING;
		known = true;
	}
	if (search->depth == 1 && !known)
		search->others = true;
	AMT_JSON_DONE;
}

static AmtJsonResult
take_scalar(void *state, char *token, JsonTokenType type)
{
	AmtJsonKind kind = AMT_JSON_OTHER;

	if (type == JSON_TOKEN_STRING)
		kind = AMT_JSON_STRING;
	else if (type == JSON_TOKEN_NUMBER)
		kind = AMT_JSON_NUMBER;
	else if (type == JSON_TOKEN_NULL)
		kind = AMT_JSON_NOTHING;
	enter_value(state, kind, token);
	AMT_JSON_DONE;
}

static void
run_search(void *arg)
{
	Search	   *search = arg;
	JsonSemAction actions = {0};

	actions.semstate = search;
	actions.object_start = start_object;
	actions.object_end = end_container;
	actions.array_start = start_array;
	actions.array_end = end_container;
	actions.object_field_start = start_member;
	actions.scalar = take_scalar;
	if (pg_parse_json(amt_json_lexer(search->text), &actions) != JSON_SUCCESS)
		search->is_object = false;
}

static bool
may_raise_error(const char *text)
{
	int			opened = 0;

	for (const char *s = text; *s != '\0'; s++)
		if ((*s == '[' || *s == '{') && ++opened > SAFE_NESTING)
			return true;
	return GetDatabaseEncoding() != PG_UTF8 && strchr(text, '\\') != NULL;
}

bool
amt_json_find(const char *text, AmtJsonMember *members, int n, bool *others)
{
	Search		search = {0};
	ErrorData  *error = NULL;

	Assert(n <= MAX_PATHS);
	*others = false;
	if (!pg_verify_mbstr(GetDatabaseEncoding(), text, strlen(text), true))
		return false;
	search.text = text;
	search.members = members;
	search.n = n;
	for (int i = 0; i < n; i++)
		members[i].kind = AMT_JSON_NOTHING;
	if (may_raise_error(text))
		error = amt_attempt(run_search, &search);
	else
		run_search(&search);
	*others = search.others;
	return error == NULL && search.is_object;
}
