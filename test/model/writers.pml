/*
 * Two writers at once: one was terminated and writes for the last time, when its
 * successor has come. The row's lock keeps their transactions apart.
 */

#include "entry.pml"

bool	locked;		/* the row, by the writer whose transaction is open */

active proctype backend()
{
end_C:
	do
	:: atomic { calls_left > 0 -> calls_left--; count_call() }
	od
}

active proctype reader()
{
	byte	before, total, seen, row_seen;

	atomic { reader_alive = true; before = kept; seen = NONE }
	read_total(total, reader_alive);
	atomic { assert(total >= before); goto end }
crashed:
	skip;
end:
	skip
}

active [2] proctype writer()
{
	byte	w_serial, w_counted, w_base, new_row;

start:
	atomic { w_serial = 0; w_counted = 0; w_base = 0; new_row = 0 }
end_W1:
	atomic {
		here && counted > written ->
		w_serial = serial;
		w_counted = counted;
		w_base = base
	}
W2:	atomic {
		if
		:: locked -> goto start
		:: else -> locked = true
		fi
	}
W2_base:
	atomic {
		/* The other writer has written all of it, and it was evicted since. */
		if
		:: !here || serial != w_serial -> locked = false; goto start
		:: else
		fi;
#ifdef MUTANT_COPIED_BASE
		if
		:: w_base == UNKNOWN && base == UNKNOWN -> base = row; w_base = row
		:: w_base == UNKNOWN && base != UNKNOWN -> w_base = row
		:: else
		fi
#else
		if
		:: base == UNKNOWN -> base = row
		:: else
		fi;
		w_base = base
#endif
	}
W3:	atomic {
		if
		:: w_base + w_counted > row -> new_row = w_base + w_counted
		:: else -> new_row = row
		fi
	}
W4:	atomic {
		row = new_row;
		locked = false;
		assert(row <= kept)
	}
W5:	atomic {
		if
		:: here && serial == w_serial && written < w_counted -> written = w_counted
		:: else
		fi;
		goto start
	}
}

/* When all is quiet, the table has each call, once. */
active proctype quiet()
{
end:
	timeout ->
	assert(row == kept && !here)
}
