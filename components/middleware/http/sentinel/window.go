package sentinel

import "time"

// window counts events of a few kinds in a time that slides on, in pieces. Its owner guards it. Times are counted from the owner's
// start.
type window struct {
	piece  time.Duration
	pieces []piece
}

type piece struct {
	number int64 // of the piece of time, since the start
	counts [3]int64
}

func newWindow(interval time.Duration, pieces int) window {
	w := window{piece: interval / time.Duration(pieces), pieces: make([]piece, pieces)}
	for i := range w.pieces {
		w.pieces[i].number = -1
	}
	return w
}

// add counts events.
func (w *window) add(now time.Duration, kind int, n int64) {
	number := int64(now / w.piece)
	p := &w.pieces[number%int64(len(w.pieces))]
	if p.number != number {
		*p = piece{number: number}
	}
	p.counts[kind] += n
}

// sum is the number of events in the window.
func (w *window) sum(now time.Duration, kind int) (n int64) {
	last := int64(now / w.piece)
	for i := range w.pieces {
		if p := &w.pieces[i]; p.number >= 0 && p.number > last-int64(len(w.pieces)) && p.number <= last {
			n += p.counts[kind]
		}
	}
	return n
}

// at is the number of events in the piece of time that is so many pieces before now.
func (w *window) at(now time.Duration, kind int, before int64) int64 {
	number := int64(now/w.piece) - before
	if number < 0 {
		return 0
	}
	if p := &w.pieces[number%int64(len(w.pieces))]; p.number == number {
		return p.counts[kind]
	}
	return 0
}

// largest is the largest number of events in one piece.
func (w *window) largest(now time.Duration, kind int) (n int64) {
	for before := range int64(len(w.pieces)) {
		n = max(n, w.at(now, kind, before))
	}
	return n
}

func (w *window) reset() {
	for i := range w.pieces {
		w.pieces[i] = piece{number: -1}
	}
}
