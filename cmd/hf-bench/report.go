//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hyperfleet/init/applets/nsguest"
)

// A report is the JSON file.
type report struct {
	Date      string  `json:"date"`
	Commit    string  `json:"commit"`
	CPU       string  `json:"cpu"`
	Cores     int     `json:"cores"`
	MemoryMiB int     `json:"memory_mib"`
	Kernel    string  `json:"kernel"`
	Go        string  `json:"go"`
	Load      string  `json:"load"` // of the machine before: what else it did
	Seconds   float64 `json:"seconds"`
	Rows      []row   `json:"rows"`
}

// describe notes what the figures are of.
func (r *report) describe(ctx context.Context, root string) {
	git := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	git.Dir = root
	commit, _ := git.Output()
	kib, _ := nsguest.Field("/proc/meminfo", "MemTotal")
	load, _ := os.ReadFile("/proc/loadavg")
	r.Date = time.Now().UTC().Format("2006-01-02 15:04 UTC")
	r.Commit = strings.TrimSpace(string(commit))
	r.CPU, r.Cores, r.MemoryMiB = cpuModel(), runtime.NumCPU(), kib>>10
	r.Kernel, r.Go, r.Load = kernelRelease(), runtime.Version()+" "+runtime.GOARCH, strings.TrimSpace(string(load))
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func (r *report) String() string {
	return fmt.Sprintf("%s; %d × %s, %d MiB; Linux %s; %s; commit %s; load before: %s", r.Date, r.Cores, r.CPU, r.MemoryMiB, r.Kernel, r.Go, r.Commit, r.Load)
}

// write writes all forms of the report.
func (b *bench) write() error {
	b.result.table(b.stdout)
	text, err := json.MarshalIndent(b.result, "", "\t")
	if err != nil {
		return err
	}
	for path, content := range map[string]string{b.jsonFile: string(text) + "\n", b.svg: b.result.chart(), b.markdown: b.result.markdown()} {
		if path != "" {
			err = errors.Join(err, writeFile(path, []byte(content)))
		}
	}
	return err
}

func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// number has three digits that say something.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// spread is a median, with its spread where there is one.
func (s stats) spread() string {
	if s.N < leastRounds || s.Min == s.Max {
		return number(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median), number(s.P10), number(s.P90))
}

// table prints the rows for people.
func (r *report) table(w io.Writer) {
	fmt.Fprintf(w, "%s; %.0f s\n", r, r.Seconds)
	where := ""
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	met, missed := 0, 0
	for _, row := range r.Rows {
		if row.Where != where {
			where = row.Where
			fmt.Fprintf(t, "\n%s\tmedian (p10–p90)\tp99\tfloor\tmedian (p10–p90)\tp99\tratio\treach\t\tpeak above idle\n", strings.ToUpper(where))
		}
		if row.Met != nil && *row.Met {
			met++
		} else if row.Met != nil {
			missed++
		}
		fmt.Fprintln(t, strings.Join(row.cells(), "\t"))
	}
	_ = t.Flush()
	fmt.Fprintln(w)
	for _, row := range r.Rows {
		if row.Note != "" {
			fmt.Fprintf(w, "%s: %s\n", row.Name, row.Note)
		}
	}
	fmt.Fprintf(w, "%d of %d reached\n", met, met+missed)
}

func (r *row) cells() []string {
	cells := []string{r.Group + ": " + r.Name, r.Figure.spread() + " " + r.Unit, "", "", "", "", "", "", "", ""}
	if r.Figure.N > 100 && r.Figure.Min < r.Figure.Max {
		cells[2] = number(r.Figure.P99)
	}
	for i, f := range r.Floors {
		if i > 0 {
			cells[3] += "; "
			cells[4] += "; "
		}
		cells[3] += f.Name
		cells[4] += f.spread()
	}
	if len(r.Floors) > 0 {
		cells[6] = fmt.Sprintf("%.2f", r.Ratio)
		if r.Figure.N > 100 {
			cells[5] = number(r.Floors[0].P99)
		}
	}
	if r.Reach != nil {
		cells[7] = r.Reach.String()
		cells[8] = map[bool]string{true: "met", false: "NOT MET"}[*r.Met]
	}
	if r.PeakKiB > 0 {
		cells[9] = fmt.Sprintf("%+.1f MB", float64(r.AboveKiB)*1024/1e6)
	}
	return cells
}

// markdown is the table for the README.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| | median (p10–p90) | floor | × | to be reached |\n|---|---|---|---|---|\n")
	where := ""
	for _, row := range r.Rows {
		if row.Where != where {
			where = row.Where
			fmt.Fprintf(&b, "| **%s** | | | | |\n", where)
		}
		floor, ratio, reach := "", "", ""
		if len(row.Floors) > 0 {
			floor, ratio = number(row.Floors[0].Median)+", "+row.Floors[0].Name, fmt.Sprintf("%.2f", row.Ratio)
		}
		if row.Reach != nil {
			reach = row.Reach.String() + map[bool]string{true: " ✓", false: ""}[*row.Met]
		}
		fmt.Fprintf(&b, "| %s: %s | %s %s | %s | %s | %s |\n", row.Group, row.Name, row.Figure.spread(), row.Unit, floor, ratio, reach)
	}
	return b.String()
}
