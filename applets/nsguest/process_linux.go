package nsguest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Process is one of a machine, by its own numbers.
type Process struct {
	PID, Parent int
	State       string
	Name, Line  string // of its program, and its words
}

// Processes lists those that a /proc shows.
func Processes(proc string) []Process {
	var list []Process
	dirs, _ := filepath.Glob(proc + "/[0-9]*")
	for _, dir := range dirs {
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it has ended
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		head, tail, _ := strings.Cut(string(stat), ") ")
		number, name, _ := strings.Cut(head, " (")
		fields := strings.Fields(tail)
		p := Process{Name: name, State: fields[0], Line: strings.Join(strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"), " ")}
		p.PID, _ = strconv.Atoi(number)
		p.Parent, _ = strconv.Atoi(fields[1])
		list = append(list, p)
	}
	return list
}

// PSS returns the proportional set size of every process that a /proc shows, by
// name, in KiB.
func PSS(proc string) (map[string]int, error) {
	sizes := map[string]int{}
	for _, p := range Processes(proc) {
		n, err := Field(fmt.Sprintf("%s/%d/smaps_rollup", proc, p.PID), "Pss")
		if err != nil {
			return nil, err
		}
		sizes[p.Name] += n
	}
	return sizes, nil
}

// Field reads a number behind a name and a colon, as /proc/PID/status has them.
func Field(path, name string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok && strings.TrimSpace(rest) != "" {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, fmt.Errorf("%s: no %s", path, name)
}
