package vsockclient

import (
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
)

// TestLimitFlags: what docker takes for them, and what is no such thing.
func TestLimitFlags(t *testing.T) {
	mask := fs.FileMode(0o27)
	const bad = "bad"
	for line, want := range map[string]any{
		"":                              client.ExecOptions{},
		"--memory 64m":                  client.ExecOptions{MemoryMax: 64 << 20},
		"--memory 2G":                   client.ExecOptions{MemoryMax: 2 << 30},
		"--memory 1024k":                client.ExecOptions{MemoryMax: 1 << 20},
		"--memory 1048576":              client.ExecOptions{MemoryMax: 1 << 20},
		"--memory 1048577b":             client.ExecOptions{MemoryMax: 1<<20 + 1},
		"--cpus 1.5":                    client.ExecOptions{CPUMax: 1500},
		"--cpus .01":                    client.ExecOptions{CPUMax: 10},
		"--cpus 1000":                   client.ExecOptions{CPUMax: 1_000_000},
		"--pids-limit 1":                client.ExecOptions{PidsMax: 1},
		"--ulimit nofile=1024:2048":     client.ExecOptions{Rlimits: map[string]client.Rlimit{"nofile": {Soft: 1024, Hard: 2048}}},
		"--ulimit core=0":               client.ExecOptions{Rlimits: map[string]client.Rlimit{"core": {}}},
		"--ulimit core=0:-1":            client.ExecOptions{Rlimits: map[string]client.Rlimit{"core": {Hard: client.Unlimited}}},
		"--ulimit cpu=-1 --ulimit as=5": client.ExecOptions{Rlimits: map[string]client.Rlimit{"cpu": {Soft: -1, Hard: -1}, "as": {Soft: 5, Hard: 5}}},
		"--umask 027":                   client.ExecOptions{Umask: &mask},
		"--umask 0":                     client.ExecOptions{Umask: new(fs.FileMode)},
		"--group docker --group 27":     client.ExecOptions{Groups: []string{"docker", "27"}},
		"--group=":                      client.ExecOptions{Groups: []string{}},
		"--grace 1500ms":                client.ExecOptions{Grace: 1500 * time.Millisecond},

		"--memory 0": bad, "--memory 1023k": bad, "--memory -5m": bad, "--memory m": bad, "--memory=": bad, "--memory 64mb": bad,
		"--memory 64x": bad, "--memory 1.5g": bad, "--memory 9223372036854775807g": bad, "--memory 99999999999g": bad,
		"--cpus 0": bad, "--cpus 0.009": bad, "--cpus -1": bad, "--cpus nan": bad, "--cpus inf": bad, "--cpus 1001": bad, "--cpus 1,5": bad, "--cpus 1e300": bad,
		"--pids-limit 0": bad, "--pids-limit -1": bad, "--pids-limit 4194305": bad, "--pids-limit x": bad,
		"--ulimit nofile": bad, "--ulimit nofile=": bad, "--ulimit nofile=2:1": bad, "--ulimit nofile=-1:1": bad, "--ulimit nofile=1:2:3": bad,
		"--ulimit nofile=-2": bad, "--ulimit NOFILE=1": bad, "--ulimit =1": bad, "--ulimit nofile=1k": bad,
		"--umask 8": bad, "--umask 1000": bad, "--umask u=rwx": bad, "--umask=": bad,
		"--grace -1s": bad, "--grace 5": bad,
	} {
		cmd, rest, err := find(append([]string{"exec"}, append(strings.Fields(line), "true")...))
		if err != nil {
			t.Fatal(err)
		}
		var o options
		_, err = o.parse(rest, cmd)
		switch {
		case want == bad:
			if err == nil {
				t.Errorf("%s: %+v", line, o.exec)
			}
		case err != nil || !reflect.DeepEqual(o.exec, want):
			t.Errorf("%s: %+v, %v; want %+v", line, o.exec, err, want)
		}
	}
}

// TestLimitsOfAnOldAgent: one that would pass over them is not asked.
func TestLimitsOfAnOldAgent(t *testing.T) {
	a, sock := agent(t)
	for _, flags := range []string{"--memory 64m", "--umask 0", "--group=", "--json --grace 1s", "--max-output 5 --cpus 1"} {
		status, _, stderr := invoke("", append(append([]string{"--unix", sock, "exec"}, strings.Fields(flags)...), "echo")...)
		if status != statusExec || !strings.Contains(stderr, "is too old for") || a.LastExec().Cmd != nil {
			t.Errorf("%s: %d %q %+v", flags, status, stderr, a.LastExec())
		}
	}
}
