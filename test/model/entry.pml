/*
 * The entry of one key in shared memory, and what every process may do with it.
 *
 * An atomic step on the entry is one hold of its partition lock in the C code.
 * Included by the models.
 *
 * Every statement ends with its line: Spin puts a semicolon there.
 */

#define UNKNOWN	255		/* base: the writer has not read the row yet */
#define NONE	255		/* no entry seen, no value in the transaction */

#ifndef CALLS
#define CALLS	4		/* calls, by either backend */
#endif
byte	calls_left = CALLS;

/*
 * A key id can be created again with another stored hash (RECREATE). Both keys use
 * one entry in turn, and each has its own truth. h is the hash by which a process
 * knows the key.
 */
#ifdef RECREATE
#define HASHES	2
byte	entry_hash;		/* the hash that the entry is about */
#define ours	(here && entry_hash == h)
#else
#define HASHES	1
#define h		0
#define ours	here
#endif

/* The entry. */
bool	here;			/* is there an entry for the key */
byte	serial;			/* tells it from a later one of the same key */
byte	counted;		/* calls since the entry was made */
byte	base = UNKNOWN;	/* calls in the table when it was made */
byte	written;		/* how many of counted are in the table */
byte	last_serial;	/* the serial that was given last */

/* The table's row, as a fresh snapshot sees it; 0 if there is none. */
byte	row;

/* Ghosts: no process decides by them, only assertions read them. */
byte	kept_[HASHES];		/* the truth: calls made, without those a crash took */
bool	gone_[HASHES];		/* the creation rolled back, or the revocation committed */

#define kept	kept_[h]
#define gone	gone_[h]

/* A crash ends the reader and the writer between any two steps. */
bool	reader_alive;
bool	writer_alive;

inline add_entry()
{
	last_serial++;
	here = true;
	serial = last_serial;
	counted = 0;
	base = UNKNOWN;
#ifdef RECREATE
	entry_hash = h;
#endif
	written = 0
}

inline remove_entry()
{
	here = false;
	serial = 0;
	counted = 0;
	base = UNKNOWN;
	written = 0
}

/*
 * Only the writer removes an entry with unwritten calls. But a call of a new key
 * with the same id may replace it, and then the writer gives up.
 */
#ifdef RECREATE
#define STILL_THERE	if :: here && serial == w_serial :: else -> roll_back_writer(); goto died fi
#else
#define STILL_THERE	assert(here && serial == w_serial)
#endif

/* C: find the key's entry or add one, and count. */
inline count_call()
{
	if
	:: !here -> add_entry()
	:: else
	fi;
	counted++;
	kept++
}

/*
 * Sets total to the key's calls. alive is false once a crash has ended the
 * process; then it goes to crashed. At the step that fixes the answer, it must
 * not be more than the truth.
 */
inline read_total(total, alive)
{
	total = 0;
#ifndef MUTANT_ROW_FIRST
R1:	atomic {
		if
		:: !alive -> goto crashed
		:: alive && ours && base != UNKNOWN ->
			total = base + counted;
			assert(gone || total <= kept);
			goto answered
		:: alive && ours && base == UNKNOWN -> seen = serial
		:: alive && !ours -> seen = NONE
		fi
	}
#endif
R2:	atomic {
		if
		:: !alive -> goto crashed
		:: alive -> row_seen = row
		fi
	}
R3:	atomic {
		if
		:: !alive -> goto crashed
#ifdef MUTANT_ROW_FIRST
		:: alive && ours && base != UNKNOWN -> total = base + counted
		:: alive && ours && base == UNKNOWN -> total = row_seen + counted
		:: alive && !ours -> total = row_seen
#else
		:: alive && seen == NONE -> total = row_seen
#ifdef MUTANT_READER_IGNORES_SERIAL
		:: alive && seen != NONE && ours && base == UNKNOWN ->
#else
		:: alive && seen != NONE && ours && base == UNKNOWN && serial == seen ->
#endif
			total = row_seen + counted
		:: else ->
			seen = NONE;
			row_seen = 0;
			goto R1
#endif
		fi;
		assert(gone || total <= kept)
	}
answered:
	skip
}

/* Another key needs the room, at any time. */
#ifndef NO_EVICTION
active proctype evictor()
{
end:
	do
	:: atomic {
#ifdef MUTANT_EVICTS_DIRTY
		here ->
#else
		here && written == counted ->
#endif
		remove_entry()
	   }
	od
}
#endif

/* An entry made without a call: the creation of a key enters it as proved. */
active proctype prover()
{
#ifdef RECREATE
	byte	h = 0;
#endif

end_add:
	atomic { !here -> add_entry() }
end:
	false
}
