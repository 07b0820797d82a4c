/*
 * Counting, reading, writing, eviction, crashes and promotion.
 *
 * STANDBY: the server starts as a standby, the row grows by the primary's
 * counting, and promotion may come at any time.
 */

#include "entry.pml"

#ifdef STANDBY
bool	standby = true;
#else
bool	standby = false;
#endif

byte	new_row = NONE;	/* the row in the writer's open transaction */

active [2] proctype backend()
{
end_C:
	do
	:: atomic { calls_left > 0 -> calls_left--; count_call() }
	od
}

active proctype reader()
{
	byte	before, total, seen, row_seen;

crashed:
	atomic {
		reader_alive = true;
		before = kept;
		seen = NONE;
		row_seen = 0
	}
	read_total(total, reader_alive);
	atomic {
		if
		:: reader_alive -> assert(total >= before)
		:: else
		fi
	}
}

/*
 * The writer may die between any two steps; its transaction rolls back, and a
 * new writer starts from W1.
 */
#define OR_DIES	:: atomic { new_row = NONE; goto died }

active proctype writer()
{
	byte	w_serial, w_counted, w_base;

died:
	atomic { w_serial = 0; w_counted = 0; w_base = 0 }
end_W1:
	atomic {
		!standby && here && counted > written ->
		writer_alive = true;
		w_serial = serial;
#ifdef MUTANT_INCREMENT
		w_counted = counted - written
#else
		w_counted = counted
#endif
	}
	/*
	 * W2: lock the row. Only this process changes it. The entry is still there:
	 * only the writer removes one that has unwritten calls.
	 */
W2:	if
	:: atomic {
		writer_alive ->
		STILL_THERE;
		if
		:: base == UNKNOWN ->
#ifndef MUTANT_BASE_AFTER_WRITE
			base = row;
#endif
			w_base = row
		:: else -> w_base = base
		fi
	   }
	OR_DIES
	fi;
W3:	if
	:: atomic {
		writer_alive ->
#ifdef MUTANT_INCREMENT
		new_row = row + w_counted
#else
		assert(w_base + w_counted >= row);
		new_row = w_base + w_counted
#endif
	   }
	OR_DIES
	fi;
#ifdef MUTANT_WRITTEN_BEFORE_COMMIT
	if
	:: atomic {
		writer_alive ->
		written = w_counted
	   }
	OR_DIES
	fi;
#endif
W4:	if
	:: atomic {
		writer_alive ->
		row = new_row;
		new_row = NONE;
		assert(row <= kept)
	   }
	OR_DIES
	fi;
W5:	if
	:: atomic {
		writer_alive ->
		STILL_THERE;
#ifdef MUTANT_BASE_AFTER_WRITE
		base = w_base;
#endif
#ifdef MUTANT_WRITTEN_IS_COUNTED_NOW
		written = counted
#elif defined(MUTANT_INCREMENT)
		written = written + w_counted
#else
		assert(w_counted >= written);
		written = w_counted
#endif
	   }
	OR_DIES
	fi;
	goto died
}

/* The whole server crashes, once: all memory is lost, the table stays. */
active proctype crash()
{
	if
	:: true -> goto end
	:: true
	fi;
	atomic {
		remove_entry();
		last_serial = 0;
		new_row = NONE;
		reader_alive = false;
		writer_alive = false;
		assert(row <= kept);
		kept = row
	}
end:
	skip
}

#ifdef STANDBY
/* The primary's counting reaches the row, in totals, until the promotion. */
active proctype primary()
{
	byte	left = 2;

end:
	do
	:: atomic { standby && left > 0 -> row++; kept++; left-- }
	:: atomic { standby && left > 1 -> row = row + 2; kept = kept + 2; left = 0 }
	:: atomic { standby -> standby = false; break }
	od
}
#endif

/* When all is quiet, the table has each call, once. */
active proctype quiet()
{
end:
	timeout ->
	assert(row == kept);
#ifndef NO_EVICTION
	assert(!here)	/* all written, so the evictor has taken it */
#endif
}
