/*
 * json.h
 *	  Members of a JSON object.
 */
#ifndef AMT_JSON_H
#define AMT_JSON_H

typedef enum AmtJsonKind
{
	AMT_JSON_NOTHING,			/* missing, or null */
	AMT_JSON_STRING,
	AMT_JSON_NUMBER,
	AMT_JSON_OTHER				/* true, false, an array or an object */
} AmtJsonKind;

typedef struct AmtJsonMember
{
	const char *path;			/* names with dots between them */
	AmtJsonKind kind;
	const char *value;			/* text of a string or number; palloc'd */
} AmtJsonMember;

/*
 * Find the members with these paths.  Of two with the same path the last
 * counts.  *others says whether the object has members that no path begins
 * with.  Returns false if the text is not a JSON object, or is not valid in
 * the database's encoding.
 */
extern bool amt_json_find(const char *text, AmtJsonMember *members, int n, bool *others);

#endif							/* AMT_JSON_H */
