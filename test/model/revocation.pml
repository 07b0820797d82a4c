/*
 * Creation and revocation of the key while it is counted, read and written.
 *
 * Rows have versions here, because a scan with a dirty snapshot takes two steps:
 * it notes the versions that the index names (1), then visits them (2). A row
 * whose new version is committed between the two is not found. A scan with a
 * fresh snapshot is one step.
 *
 * Variants: CREATION (the key's creation is in progress at first), UPDATE (the key's
 * row is updated), READER, CRASH, RECREATE (the id is created again).
 */

#if defined(RECREATE) && (defined(CREATION) || defined(UPDATE) || defined(CRASH))
#error RECREATE goes with READER only
#endif

#include "entry.pml"

/* The key's row. */
#ifdef CREATION
bool	key_live;		/* a committed version exists */
bool	key_new = true;	/* its creation is in progress */
#else
bool	key_live = true;
bool	key_new;
#endif
bool	key_deleted;	/* the revocation in progress has deleted it */
bool	key_updated;	/* an update in progress has a new version of it */
byte	key_version;	/* the committed version */
byte	key_hash;		/* its stored hash */

/* The usage row. row holds its calls. */
bool	usage_live;		/* a committed version exists */
bool	usage_deleted;	/* the revocation in progress has deleted it */
byte	usage_version;	/* the committed version */

/* The writer's open transaction: it holds the row's lock, it has a new version. */
bool	locked;
bool	inserted;
bool	updated;
byte	new_row;

bool	revoker_alive;

#ifdef RECREATE
#define LEARN_HASH	h = key_hash
#ifdef MUTANT_HASH_IS_NOT_COMPARED
#define HASH_DIFFERS	false
#else
#define HASH_DIFFERS	(key_hash != h)
#endif
#else
#define LEARN_HASH	skip
#define HASH_DIFFERS	false
#endif

#define NEXT(v)	(1 - v)	/* versions: two are enough, an old one is dead */

mtype = { FREE, CHANGING, BUSY, ABSENT };	/* what the writer finds of the key */

inline roll_back_writer()
{
	locked = false;
	inserted = false;
	updated = false;
	new_row = 0
}

inline roll_back_revoker()
{
	key_deleted = false;
	usage_deleted = false
}

#ifdef RECREATE
/*
 * The entry may be about another hash, and have unwritten calls. Then the key's row
 * decides whether this hash is still stored, and only the entry that was seen
 * before is replaced.
 */
inline count_call_of_hash()
{
	other = 0
C:	atomic {
		if
		:: ours -> counted++; kept++; goto end_verify
		:: !here || (!ours && counted == written) ->
			remove_entry(); add_entry(); counted++; kept++;
			goto end_verify
		:: else -> other = serial
		fi
	}
#ifndef MUTANT_ROW_IS_NOT_ASKED
C2:	atomic {
		if
		:: key_live -> h = key_hash
		:: else -> other = 0; goto end_verify	/* the key is gone */
		fi
	}
#endif
C3:	atomic {
		if
		:: here && !ours && serial == other ->
			remove_entry(); add_entry(); counted++; kept++; other = 0;
			goto end_verify
		:: else -> other = 0; goto C
		fi
	}
}
#endif

/* A verification reads the key's row, then counts the call. */
active [2] proctype backend()
{
#ifdef RECREATE
	byte	h, other;
#endif

end_verify:
	do
	:: atomic { calls_left > 0 && key_live -> calls_left--; LEARN_HASH }
#ifdef RECREATE
		count_call_of_hash()
#else
C:		atomic { true -> count_call() }
#endif
	od
}

#ifdef CREATION
/* The key is called in the transaction that creates it, too. */
active proctype creator()
{
	if
	:: atomic { key_new -> count_call() }
	:: true
	fi;
	atomic {
		if
		:: key_new -> key_new = false; key_live = true
		:: key_new -> key_new = false; gone = true
		:: !key_new			/* a crash has ended it */
		fi
	}
}
#endif

#ifdef UPDATE
/* Somebody renames or suspends the key; the row's new version is elsewhere. */
active proctype updater()
{
	if
	:: atomic { key_live && !key_deleted -> key_updated = true }
	:: gone -> goto done
	fi;
	atomic {
		if
		:: key_updated -> key_updated = false; key_version = NEXT(key_version)
		:: key_updated -> key_updated = false
		:: !key_updated
		fi
	}
done:
	skip
}
#endif

#ifdef RECREATE
/* The owner creates the key id again, with another hash. */
active proctype recreator()
{
end:
	atomic { !key_live && !key_new -> key_new = true; key_hash = 1 }
	atomic {
		key_new = false;
		if
		:: key_live = true
		:: gone_[1] = true
		fi
	}
}
#endif

#ifdef READER
active proctype reader()
{
#ifdef RECREATE
	byte	h;
#endif
	byte	before, total, seen, row_seen;

crashed:
	atomic {
		reader_alive = true;
		LEARN_HASH;
		before = kept;
		seen = NONE;
		row_seen = 0
	}
	read_total(total, reader_alive);
	/* A key that is revoked meanwhile may have lost its counts. */
	atomic {
		if
		:: reader_alive && !gone -> assert(total >= before)
		:: else
		fi
	}
}
#endif

/* It may give up, and roll back, between any two steps; then it may try again. */
#define OR_ROLLS_BACK	:: atomic { roll_back_revoker(); goto crashed }

active proctype revoker()
{
#ifdef RECREATE
	byte	h;
#endif
	byte	before, total, seen, row_seen;
	bool	noted_usage, noted_insert;
	byte	noted_version;

crashed:
	atomic {
		before = 0; total = 0; seen = NONE; row_seen = 0;
		noted_usage = false; noted_insert = false; noted_version = 0
	}
	/* V1: the key's row is deleted; another writer of that row is waited for. */
end_V1:
	if
	:: true
	:: true -> goto given_up
	fi;
	atomic {
		if
		:: key_live && !key_updated
		:: gone -> goto given_up
		fi;
		revoker_alive = true;
		key_deleted = true;
		LEARN_HASH;
		before = kept
	}
	/* V2: the total for the event. */
	read_total(total, revoker_alive);
	atomic {
		if
		:: revoker_alive -> assert(total >= before)
		:: else -> goto crashed
		fi;
		before = 0; total = 0; seen = NONE; row_seen = 0
	}
	/* V3: look for the usage row with a dirty snapshot. */
V3_1:	if
	:: atomic {
		revoker_alive ->
		noted_usage = usage_live;
		noted_version = usage_version;
		noted_insert = inserted
	   }
	OR_ROLLS_BACK
	fi;
V3_2:	if
	:: atomic {
		revoker_alive ->
		if
		:: usage_live && noted_usage && noted_version == usage_version ->
#ifndef MUTANT_REVOKER_DOES_NOT_WAIT
			if
			:: locked -> goto V3_wait
			:: else
			fi;
#endif
			usage_deleted = true;
			goto V5
		:: !(usage_live && noted_usage && noted_version == usage_version) &&
		   noted_insert && inserted ->
#ifdef MUTANT_REVOKER_DOES_NOT_WAIT
			skip
#else
			goto V3_wait
#endif
		:: else
		fi
	   }
	OR_ROLLS_BACK
	fi;
	/* V4: none found. A fresh snapshot must say the same. */
#ifndef MUTANT_REVOKER_LOOKS_ONCE
V4:	if
	:: atomic {
		revoker_alive ->
		if
		:: usage_live -> goto V3_1
		:: else
		fi
	   }
	OR_ROLLS_BACK
	fi;
#endif
	goto V5;
V3_wait:
	if
	:: !locked && !inserted -> goto V3_1
	OR_ROLLS_BACK
	fi;
V5:	if
	:: atomic {
		revoker_alive ->
		key_live = false;
		gone = true;
		if
		:: usage_deleted -> usage_live = false; row = 0
		:: else
		fi;
		roll_back_revoker();
		assert(!usage_live)
	   }
	OR_ROLLS_BACK
	fi;
given_up:
	skip
}

#define OR_DIES	:: atomic { roll_back_writer(); goto died }

/* found = what a dirty snapshot says of the key, in two steps. */
inline check_key()
{
	if
	:: atomic {
		writer_alive ->
		noted_key = key_live;
		noted_version = key_version;
		noted_new = (key_new || key_updated)
	   }
	OR_DIES
	fi;
	if
	:: atomic {
		writer_alive ->
		if
		:: key_live && noted_key && noted_version == key_version ->
			if
			:: key_deleted -> found = BUSY
			:: !key_deleted && HASH_DIFFERS -> found = ABSENT
			:: key_updated && !HASH_DIFFERS -> found = CHANGING
			:: else -> found = FREE
			fi
		:: !(key_live && noted_key && noted_version == key_version) &&
		   noted_new && (key_new || key_updated) ->
			if
			:: key_updated -> found = CHANGING
			:: else -> found = BUSY
			fi
		:: !(key_live && noted_key && noted_version == key_version) &&
		   !(noted_new && (key_new || key_updated)) -> found = ABSENT
		fi;
		noted_key = false; noted_version = 0; noted_new = false
	   }
	OR_DIES
	fi
}

active proctype writer()
{
#ifdef RECREATE
	byte	h;
#endif
	byte	w_serial, w_counted, w_base, noted_version;
	bool	noted_key, noted_new, none;
	mtype	found = FREE;

died:
	atomic {
		w_serial = 0; w_counted = 0; w_base = 0; none = false; found = FREE;
		noted_key = false; noted_version = 0; noted_new = false
	}
end_W1:
	atomic {
		if
#ifdef RECREATE
		:: here && counted > written -> h = entry_hash
#else
		:: here && counted > written
#endif
		fi;
		writer_alive = true;
		w_serial = serial;
		w_counted = counted
	}
	/* W2: lock the row, or find that there is none. */
W2:	if
	:: atomic {
		writer_alive ->
		if
		:: usage_live && usage_deleted -> goto died		/* skip for now */
		:: usage_live && !usage_deleted -> locked = true
		:: !usage_live -> none = true
		fi;
		w_base = row
	   }
	OR_DIES
	fi;
	/* K1: look for the key. */
#ifdef MUTANT_ROW_MAY_BE_ANOTHERS
	if
	:: !none -> goto W2_base
	:: else
	fi;
#endif
K1:	check_key();
	if
	:: found == FREE || (found == CHANGING && !none) -> goto W2_base
	:: found == CHANGING && none -> atomic { roll_back_writer(); goto died }
#ifdef MUTANT_BUSY_KEY_IS_GONE
	:: found == BUSY -> goto drop
#else
	:: found == BUSY -> atomic { roll_back_writer(); goto died }
#endif
	:: found == ABSENT
	fi;
	/* A fresh snapshot must say the same before counts are dropped. */
#ifndef MUTANT_DROPS_AT_ONCE
K1_fresh:
	if
	:: atomic {
		writer_alive ->
		if
		:: key_live && !HASH_DIFFERS -> roll_back_writer(); goto died
		:: else
		fi
	   }
	OR_DIES
	fi;
#endif
drop:
	if
	:: atomic {
		writer_alive ->
		STILL_THERE;
		assert(gone);
		remove_entry();
		roll_back_writer();
		goto died
	   }
	OR_DIES
	fi;
W2_base:
	if
	:: atomic {
		writer_alive ->
		STILL_THERE;
		if
		:: base == UNKNOWN -> base = w_base
		:: else -> w_base = base
		fi
	   }
	OR_DIES
	fi;
W3:	if
	:: atomic {
		writer_alive ->
		assert(w_base + w_counted >= row);
		new_row = w_base + w_counted;
		if
		:: none -> inserted = true
		:: else -> updated = true
		fi
	   }
	OR_DIES
	fi;
	/* K2: after an insertion, look for the key again. */
#ifndef MUTANT_NO_SECOND_CHECK
	if
	:: none ->
K2:		check_key();
		if
		:: found == FREE
		:: found != FREE -> atomic { roll_back_writer(); goto died }
		fi
	:: else
	fi;
#endif
W4:	if
	:: atomic {
		writer_alive ->
		assert(!gone);
		row = new_row;
		if
		:: usage_live -> usage_version = NEXT(usage_version)
		:: else -> usage_live = true
		fi;
		roll_back_writer();
		assert(row <= kept)
	   }
	OR_DIES
	fi;
W5:	if
	:: atomic {
		writer_alive ->
		STILL_THERE;
		written = w_counted
	   }
	OR_DIES
	fi;
	goto died
}

#ifdef CRASH
active proctype crash()
{
	if
	:: true -> goto end
	:: true
	fi;
	atomic {
		remove_entry();
		last_serial = 0;
		roll_back_writer();
		roll_back_revoker();
		key_updated = false;
		if
		:: key_new -> key_new = false; gone = true
		:: else
		fi;
		reader_alive = false;
		writer_alive = false;
		revoker_alive = false;
		kept = row
	}
end:
	skip
}
#endif

/* When all is quiet, a live key has each call once, a key that is gone nothing. */
active proctype quiet()
{
#ifdef RECREATE
	byte	h;
#endif
end:
	timeout ->
	LEARN_HASH;
	if
	:: key_live -> assert(row == kept)
	:: else -> assert(!usage_live && row == 0)
	fi;
	assert(!here)	/* all written or dropped, so the evictor has taken it */
}
