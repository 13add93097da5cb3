package main

import (
	"math/bits"
	"time"
)

// histogram counts durations by buckets of less than a hundredth of their
// size: 128 buckets for each power of two of nanoseconds.
type histogram []uint32

const (
	histogramBits = 7
	histogramSize = (40 - histogramBits + 1) << histogramBits // up to 18 minutes
)

func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	shift := max(0, bits.Len64(v)-histogramBits-1)
	return min(shift<<histogramBits+int(v>>shift), histogramSize-1)
}

// bound is the middle of a bucket in nanoseconds.
func bound(i int) float64 {
	shift := max(0, i>>histogramBits-1)
	low := uint64(i-shift<<histogramBits) << shift
	return float64(low) + float64(uint64(1)<<shift-1)/2
}

func (h histogram) add(d time.Duration) { h[bucket(d)]++ }

func (h *histogram) merge(other histogram) {
	if len(*h) < len(other) {
		*h = append(*h, make(histogram, len(other)-len(*h))...)
	}
	for i, n := range other {
		(*h)[i] += n
	}
}

func (h histogram) count() (n int) {
	for _, c := range h {
		n += int(c)
	}
	return n
}

// longest is the longest counted duration in microseconds; 0 when nothing was counted.
func (h histogram) longest() float64 {
	for i := len(h) - 1; i >= 0; i-- {
		if h[i] > 0 {
			return bound(i) / 1000
		}
	}
	return 0
}

// quantile is the duration in microseconds that a share q of the counted ones
// does not exceed; 0 when nothing was counted.
func (h histogram) quantile(q float64) float64 {
	rank := int(q * float64(h.count()))
	for i, c := range h {
		if rank -= int(c); rank < 0 {
			return bound(i) / 1000
		}
	}
	return 0
}
