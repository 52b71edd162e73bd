//go:build linux

package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// The chart's measures, in its own pixels.
const (
	chartWidth  = 980
	labelWidth  = 196
	rowHeight   = 34
	stepHeight  = 18
	columnGap   = 18
	chartMargin = 16
)

// The colours are chosen for a light page, and again for a dark one.
const chartStyle = `<style>
text{font:12px -apple-system,"Segoe UI",Helvetica,Arial,sans-serif;fill:#1f2328}
.h{font-size:15px;font-weight:600}.s{fill:#59636e;font-size:11px}.r{text-anchor:end}
.f{fill:#0969da}.m{fill:#bc4c00}.l{fill:#afb8c1}.g{stroke:#d1d9e0}.t{stroke:#1f2328;stroke-width:1.5;stroke-dasharray:3 2}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.f{fill:#4493f8}.m{fill:#db6d28}.l{fill:#5b636d}.g{stroke:#3d444d}.t{stroke:#e6edf3}}
</style>
`

// A canvas is the chart in the making, from the top down.
type canvas struct {
	b strings.Builder
	y float64
}

func (c *canvas) text(class string, x, y float64, format string, args ...any) {
	fmt.Fprintf(&c.b, `<text class="%s" x="%.1f" y="%.1f">%s</text>`+"\n", class, x, y, html.EscapeString(fmt.Sprintf(format, args...)))
}

func (c *canvas) rect(class string, x, y, w, h float64) {
	fmt.Fprintf(&c.b, `<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="1.5"/>`+"\n", class, x, y, max(w, 1), h)
}

func (c *canvas) line(class string, x, from, to float64) {
	fmt.Fprintf(&c.b, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`+"\n", class, x, from, x, to)
}

// chart draws the report: how the boot goes by, and latency and throughput beside
// their floors.
func (r *report) chart() string {
	c := &canvas{y: chartMargin + 12}
	c.boot(r)
	c.bars(r, "Latency", "shorter is better", "µs")
	c.bars(r, "Throughput", "longer is better; large: 100 MiB, 8 MiB in software", "MB/s", "/s")
	c.y += 8
	c.text("s", chartMargin, c.y, "%s", fmt.Sprintf("%d × %s, Linux %s, %s, %s, commit %s", r.Cores, r.CPU, r.Kernel, r.Go, r.Date, r.Commit))
	height := c.y + chartMargin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f" role="img" aria-label="Boot, latency and throughput beside their floors">`+"\n",
		chartWidth, height, chartWidth, height) + chartStyle + c.b.String() + "</svg>\n"
}

func (c *canvas) title(title, hint string) {
	c.text("h", chartMargin, c.y, "%s", title)
	c.text("s", chartMargin+float64(len(title))*9.2+16, c.y, "%s", hint)
	c.y += 14
}

// find returns a row of this machine.
func (r *report) find(group, name string) *row {
	i := slices.IndexFunc(r.Rows, func(o row) bool { return o.Group == group && strings.HasPrefix(o.Name, name) })
	if i < 0 {
		return nil
	}
	return &r.Rows[i]
}

// boot draws the steps one below the other, each where it begins.
func (c *canvas) boot(r *report) {
	listening, ping := r.find("boot", "exec of /init → listening"), r.find("boot", "exec of /init → first ping")
	if listening == nil || ping == nil || len(listening.Steps) == 0 {
		return
	}
	all := ping.Figure.Median
	c.title("Boot", fmt.Sprintf("exec of /init to the first ping answered: %s ms; listening after %s ms (medians, as PID 1 of namespaces)", number(all), number(listening.Figure.Median)))
	const left = float64(chartMargin + labelWidth)
	scale := (chartWidth - chartMargin - 60 - left) / max(all, ping.Floors[0].Median)
	top, at := c.y, 0.0
	for _, s := range timeline(listening.Steps, all) {
		if s.MS < all/200 { // nothing to be seen
			at += s.MS
			continue
		}
		c.text("r", left-8, c.y+12, "%s", s.Name)
		c.rect("f", left+at*scale, c.y+3, s.MS*scale, stepHeight-6)
		c.text("s", left+(at+s.MS)*scale+5, c.y+12, "%s", number(s.MS)+" ms")
		at += s.MS
		c.y += stepHeight
	}
	c.text("r", left-8, c.y+12, "%s", "the floor: "+ping.Floors[0].Name)
	c.rect("l", left, c.y+3, ping.Floors[0].Median*scale, stepHeight-6)
	c.text("s", left+ping.Floors[0].Median*scale+5, c.y+12, "%s", number(ping.Floors[0].Median)+" ms, mounts the same and answers")
	c.y += stepHeight
	c.line("g", left, top, c.y)
	c.line("t", left+listening.Figure.Median*scale, top, c.y)
	c.text("s", left+listening.Figure.Median*scale+4, top-2, "listening")
	c.y += 26
}

// timeline is the boot's steps with what comes before and behind them; those that
// are too short to be seen are put together.
func timeline(steps []bootStep, all float64) []bootStep {
	ready := steps[len(steps)-1].MS
	sum := 0.0
	for _, s := range steps[:len(steps)-1] {
		sum += s.MS
	}
	line := []bootStep{{"exec, Go's runtime", max(all-ready, 0)}}
	kind := func(s bootStep) string {
		switch {
		case strings.HasPrefix(s.Name, "mount "):
			return "mounts"
		case s.MS < all/60:
			return "short steps"
		}
		return s.Name
	}
	count := 0
	for _, s := range steps[:len(steps)-1] {
		last := &line[len(line)-1]
		if k := kind(s); k != last.Name {
			line = append(line, bootStep{k, s.MS})
			count = 1
		} else {
			last.MS += s.MS
			count++
		}
	}
	return append(line, bootStep{"the agent comes up", max(ready-sum, 0)})
}

// bars draws pairs of bars, the figure above its floor, as multiples of the floor;
// a column for each place.
func (c *canvas) bars(r *report, title, hint string, units ...string) {
	var places, names []string
	rows := map[string]row{}
	longest := 1.0
	for _, o := range r.Rows {
		if o.Reach == nil || len(o.Floors) == 0 || o.Group == "boot" || !slices.Contains(units, o.Unit) {
			continue
		}
		name := commonName(o)
		if !slices.Contains(places, o.Where) {
			places = append(places, o.Where)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		rows[o.Where+name] = o
		longest = max(longest, o.Ratio, o.Reach.Value)
	}
	if len(places) == 0 {
		return
	}
	c.title(title, hint+"; grey: the floor; dashed: what is to be reached; orange: not yet")
	c.y += 4
	const left = float64(chartMargin + labelWidth)
	width := (chartWidth - chartMargin - left - float64(len(places)-1)*columnGap) / float64(len(places))
	for i, place := range places {
		c.text("s", left+float64(i)*(width+columnGap), c.y+4, "%s", place)
	}
	c.y += 10
	for _, name := range names {
		c.text("r", left-8, c.y+17, "%s", name)
		for i, place := range places {
			if o, ok := rows[place+name]; ok {
				c.pair(o, left+float64(i)*(width+columnGap), (width-150)/longest)
			}
		}
		c.y += rowHeight
	}
	c.y += 22
}

// commonName is what rows share that differ in how much there was time for.
func commonName(r row) string {
	switch _, rest, _ := strings.Cut(r.Name, ", "); {
	case r.Group == "commands":
		return "commands, " + rest
	case strings.HasPrefix(r.Group, "file_") && !strings.HasSuffix(r.Name, "KiB") && r.Name != "1 MiB":
		return r.Group + ", large"
	}
	return r.Group + " " + r.Name
}

func (c *canvas) pair(o row, x, scale float64) {
	class := "f"
	if !*o.Met {
		class = "m"
	}
	c.rect(class, x, c.y+2, o.Ratio*scale, 11)
	c.text("s", x+max(o.Ratio, o.Reach.Value)*scale+6, c.y+11, "%s %s, %.2f ×", number(o.Figure.Median), o.Unit, o.Ratio)
	c.rect("l", x, c.y+15, scale, 11)
	c.text("s", x+max(1, o.Reach.Value)*scale+6, c.y+24, "%s, %s", number(o.Floors[0].Median), o.Floors[0].Name)
	c.line("t", x+o.Reach.Value*scale, c.y, c.y+28)
}
