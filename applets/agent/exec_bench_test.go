//go:build linux

package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkTimeout tells how exactly a command ends at its timeout, and when the
// last of a tree of 40 processes of every kind that is hard to end is gone. What
// is to be reached is 50 ms, and 200 ms after that.
//
//	go test -run - -bench Timeout -benchtime 50x ./applets/agent
func BenchmarkTimeout(b *testing.B) {
	const timeout = 100 * time.Millisecond
	l := serve(b, testLimits())
	path := filepath.Join(b.TempDir(), "pids")
	tree := family + "wait; sleep 300"
	if l.group.Valid() {
		tree = strings.Repeat(family+escaped, 6) + "wait; sleep 300"
	}
	var late, gone []time.Duration
	for b.Loop() {
		request := object{"operation": "exec", "cmd": []string{"sleep", "300"}, "timeout": timeout.Milliseconds()}
		begin := time.Now()
		if r := call(b, l.socket, request); !r.Data.TimedOut {
			b.Fatalf("%+v", r)
		}
		late = append(late, (time.Since(begin) - timeout).Abs())

		_ = os.Remove(path)
		request = sh(tree)
		request["env"] = map[string]string{"PIDS": path}
		request["timeout"] = 3 * timeout.Milliseconds()
		begin = time.Now()
		if r := call(b, l.socket, request); !r.Data.TimedOut {
			b.Fatalf("%+v", r)
		}
		for anybody(l, path) {
			time.Sleep(100 * time.Microsecond)
		}
		gone = append(gone, time.Since(begin)-3*timeout)
	}
	for _, row := range []struct {
		name string
		all  []time.Duration
	}{{"late", late}, {"gone", gone}} {
		slices.Sort(row.all)
		b.ReportMetric(row.all[len(row.all)/2].Seconds()*1e3, row.name+"-ms")
		b.ReportMetric(row.all[len(row.all)-1].Seconds()*1e3, row.name+"-max-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// anybody tells whether a process of the tree is left.
func anybody(l *live, path string) bool {
	if l.group.Valid() {
		pids, err := l.group.Tree()
		return err != nil || len(pids) > 0
	}
	b, _ := os.ReadFile(path)
	for _, f := range strings.Fields(string(b)) {
		if _, err := os.Stat("/proc/" + f); err == nil {
			return true
		}
	}
	return false
}
