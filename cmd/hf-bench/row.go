//go:build linux

package main

import (
	"cmp"
	"fmt"
	"time"
)

// A row is one figure, as the JSON file has it.
type row struct {
	Where string `json:"where"`
	Group string `json:"group"`
	Name  string `json:"name"`
	Unit  string `json:"unit"`

	Figure stats   `json:"figure"`
	Floors []floor `json:"floors,omitempty"` // the reach is about the first
	Ratio  float64 `json:"ratio,omitempty"`  // of the medians, figure to floor
	Reach  *reach  `json:"reach,omitempty"`
	Met    *bool   `json:"met,omitempty"`

	// The most that PID 1 and the agent had in memory meanwhile, and how much more
	// that is than when they idled.
	PeakKiB  int `json:"peak_kib,omitempty"`
	AboveKiB int `json:"above_idle_kib,omitempty"`

	Points []point    `json:"points,omitempty"` // of growth
	Steps  []bootStep `json:"steps,omitempty"`  // of a boot
	Note   string     `json:"note,omitempty"`
}

// A floor is what a figure is compared with.
type floor struct {
	Name string `json:"name"`
	stats
}

// A point is what one size of something led to.
type point struct {
	X      float64 `json:"x"`
	Y      float64 `json:"y"` // in the row's unit
	RSSKiB int     `json:"agent_rss_kib"`
}

// A bootStep is the median of one step.
type bootStep struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// A reach is what is to be reached: of the ratio to the floor, or of the figure's
// median itself where there is no floor.
type reach struct {
	Op    string  `json:"op"` // "<=" or ">="
	Value float64 `json:"value"`
}

func atMost(v float64) *reach  { return &reach{"<=", v} }
func atLeast(v float64) *reach { return &reach{">=", v} }

func (r *reach) String() string {
	sign := map[string]string{"<=": "≤", ">=": "≥"}[r.Op]
	return fmt.Sprintf("%s %g", sign, r.Value)
}

// judge works out what follows from the samples.
func (r *row) judge() {
	value := r.Figure.Median
	if len(r.Floors) > 0 {
		r.Ratio = r.Figure.Median / r.Floors[0].Median
		value = r.Ratio
	}
	if r.Reach != nil {
		met := value <= r.Reach.Value
		if r.Reach.Op == ">=" {
			met = value >= r.Reach.Value
		}
		r.Met = &met
	}
}

// A named action is one that a row shows as a floor.
type named struct {
	name string
	do   action
}

// A contest is a row in the making: a figure and its floors.
type contest struct {
	group, name string
	bytes       int64  // that each action moves: the row is of rates; else of times
	count       int    // of things that each action does: the row is of things per second
	unit        string // of times: µs by default
	figure      action
	floors      []named
	reach       *reach
	rounds      int
	limit       time.Duration
}

// run measures.
func (c contest) run(where string) (row, error) {
	actions := []action{c.figure}
	for _, f := range c.floors {
		actions = append(actions, f.do)
	}
	seconds, err := alternate(c.rounds, c.limit, actions...)
	if err != nil {
		return row{}, fmt.Errorf("%s: %w", c.name, err)
	}
	r := row{Where: where, Group: c.group, Name: c.name, Unit: cmp.Or(c.unit, "µs"), Reach: c.reach}
	scale := map[string]float64{"µs": 1e6, "ms": 1e3}[r.Unit]
	value := func(s float64) float64 { return s * scale }
	switch {
	case c.bytes > 0:
		r.Unit = "MB/s"
		value = func(s float64) float64 { return float64(c.bytes) / s / 1e6 }
	case c.count > 0:
		r.Unit = "/s"
		value = func(s float64) float64 { return float64(c.count) / s }
	}
	for i, all := range seconds {
		for j := range all {
			all[j] = value(all[j])
		}
		if i == 0 {
			r.Figure = summarize(all)
			continue
		}
		r.Floors = append(r.Floors, floor{c.floors[i-1].name, summarize(all)})
	}
	r.judge()
	return r, nil
}
