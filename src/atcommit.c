/*
 * atcommit.c
 *	  What happens to shared memory when the current transaction commits.
 *
 * A key that was created, or deleted, is there, or gone, for others only when
 * the transaction has committed.  So what the transaction learned about the
 * secret of a key of its own is kept aside until then: no entry is made for a
 * key that never existed.  And the entry and the pending calls of a deleted key
 * are removed only then.  The event of the deletion has the calls up to the
 * deletion; those that succeed after it and before the commit are nowhere on
 * record.  A key of the same id that is put back begins without them.  (But for
 * calls of the old key that succeed while the transaction that replaces it is
 * already committing, or, with more than a thousand keys, while it runs: nobody can
 * tell them apart.)
 *
 * The list belongs to the transaction's memory; a subtransaction that fails
 * takes its part of it along.  Nothing can be allocated, and nothing may fail,
 * once the transaction has committed: the tables get their room when an item is
 * added, and are mapped just before the commit.  PREPARE TRANSACTION drops the
 * list.
 *
 * Locks: the tables' (table.c), one item at a time; none is held between two.
 * Before the commit, who is writing the calls of a key that is put back is
 * waited for by his transaction's lock; that can be cancelled, and deadlocks are
 * found.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "atcommit.h"
#include "attempt.h"
#include "shmem.h"
#include "usage.h"

typedef struct Item
{
	struct Item *next;
	SubTransactionId subid;
	AmtTag		key_tag;
	bool		forget;
	bool		is_new;			/* forget before others can see the key */
	bool		comes_back;		/* put back later */
	TransactionId flusher;		/* who has its calls, if we have not */
	AmtCacheEntry entry;		/* if it is not to be forgotten */
} Item;

static Item *first = NULL;		/* oldest first */
static Item **end = &first;
static int	n_to_forget = 0;
static int	n_to_warm = 0;
static int	n_new = 0;

/*
 * So many are forgotten in any case; of a mass deletion, beyond that, only the
 * keys with pending calls.
 */
#define MAX_TO_FORGET	1000

static Item *
add_item(AmtTag key_tag, Size size)
{
	Item	   *item = MemoryContextAllocZero(TopTransactionContext, size);

	item->subid = GetCurrentSubTransactionId();
	item->key_tag = key_tag;
	*end = item;
	end = &item->next;
	return item;
}

/* Is that what will be done already? */
static bool
will_be_warm(AmtTag key_tag, const AmtCacheEntry *entry)
{
	bool		found = false;

	for (Item *item = first; item != NULL; item = item->next)
		if (AmtTagEquals(item->key_tag, key_tag))
			found = !item->forget && item->entry.hash_tag == entry->hash_tag;
	return found;
}

void
amt_at_commit_warm(AmtTag key_tag, const AmtCacheEntry *entry)
{
	if (will_be_warm(key_tag, entry))
		return;
	add_item(key_tag, sizeof(Item))->entry = *entry;
	amt_cache_make_room(++n_to_warm);
}

void
amt_at_commit_forget(AmtTag key_tag, bool is_new)
{
	Item	   *item;

	if (n_to_forget >= MAX_TO_FORGET && !amt_usage_has(key_tag))
		return;
	n_to_forget++;
	item = add_item(key_tag, offsetof(Item, entry));
	item->forget = true;
	item->is_new = is_new;
	n_new += is_new;
}

/* Is the key put back later, and visible to others already? */
static bool
comes_back(const Item *item)
{
	for (Item *later = item->next; later != NULL && n_new > 0; later = later->next)
		if (later->is_new && AmtTagEquals(later->key_tag, item->key_tag))
			return true;
	return false;
}

static void
do_items(void)
{
	for (Item *item = first; item != NULL; item = item->next)
	{
		if (!item->forget)
			amt_cache_enter(item->key_tag, &item->entry);
		else if (!item->is_new && !item->comes_back)
		{
			amt_cache_forget(item->key_tag);
			if (TransactionIdIsValid(item->flusher))
				amt_usage_forget(item->key_tag, item->flusher);
		}
	}
}

/*
 * What others must not find when they see a new key: its own calls are to be
 * told from the old key's.  The commit may still fail: then that is cold, and
 * has its calls.  Where no new key comes, nobody is waited for.
 */
static void
prepare_items(void)
{
	amt_table_map(&amt_shared->cache, amt_area);
	amt_table_map(&amt_shared->usage, amt_area);
	for (Item *item = first; item != NULL; item = item->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (item->is_new)
		{
			amt_cache_forget(item->key_tag);
			(void) amt_usage_give_up(item->key_tag, true);
		}
		else if (item->forget)
		{
			item->comes_back = comes_back(item);
			if (!item->comes_back)
				item->flusher = amt_usage_give_up(item->key_tag, false);
		}
	}
}

static void
end_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (first != NULL)
				prepare_items();
			break;
		case XACT_EVENT_COMMIT:
			if (first != NULL)
				amt_shield(do_items);
			/* fall through */
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			first = NULL;		/* its memory goes with the transaction */
			end = &first;
			n_to_forget = 0;
			n_to_warm = 0;
			n_new = 0;
			break;
		default:
			break;
	}
}

static void
end_subtransaction(SubXactEvent event, SubTransactionId subid,
				   SubTransactionId parent, void *arg)
{
	bool		abort = event == SUBXACT_EVENT_ABORT_SUB;
	Item	  **at = &first;

	if (!abort && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	while (*at != NULL)
	{
		Item	   *item = *at;

		if (item->subid == subid && abort)
		{
			*at = item->next;
			continue;
		}
		if (item->subid == subid)
			item->subid = parent;
		at = &item->next;
	}
	end = at;
}

void
amt_at_commit_init(void)
{
	RegisterXactCallback(end_transaction, NULL);
	RegisterSubXactCallback(end_subtransaction, NULL);
}
