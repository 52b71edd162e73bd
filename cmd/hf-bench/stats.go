//go:build linux

package main

import (
	"slices"
	"time"
)

// stats are what is told of samples, in the unit of their row.
type stats struct {
	N      int     `json:"samples"`
	Min    float64 `json:"min"`
	P10    float64 `json:"p10"`
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	P99    float64 `json:"p99"`
	Max    float64 `json:"max"`
}

func summarize(samples []float64) stats {
	s := slices.Sorted(slices.Values(samples))
	at := func(q float64) float64 { return s[int(q*float64(len(s)-1)+0.5)] }
	return stats{N: len(s), Min: s[0], P10: at(.1), Median: at(.5), P90: at(.9), P99: at(.99), Max: s[len(s)-1]}
}

// An action is something to measure. It says itself how long it took: what it has to
// prepare does not count.
type action func() (time.Duration, error)

// timed measures all of f.
func timed(f func() error) action {
	return func() (time.Duration, error) {
		began := time.Now()
		err := f()
		return time.Since(began), err
	}
}

// leastRounds are made however long they take.
const leastRounds = 3

// alternate has actions take turns, another one first each time, so that what else
// the machine does strikes all of them alike. The first round does not count. It
// ends after so many rounds, or after so long.
func alternate(rounds int, limit time.Duration, actions ...action) ([][]float64, error) {
	seconds := make([][]float64, len(actions))
	var began time.Time
	for i := range rounds + 1 {
		if i == 1 {
			began = time.Now()
		}
		if i > leastRounds && time.Since(began) > limit {
			break
		}
		for j := range actions {
			k := (i + j) % len(actions)
			took, err := actions[k]()
			if err != nil {
				return nil, err
			}
			if i > 0 {
				seconds[k] = append(seconds[k], took.Seconds())
			}
		}
	}
	return seconds, nil
}
