//go:build linux

package agent

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/internal/cgroup"
	"github.com/hyperfleet/init/applets/wire"
)

// An outcome is what each form of exec tells.
type outcome struct {
	Stdout, Stderr string
	ExitCode       int
	TimedOut, OOM  bool
	Message, Code  string // of a request that failed
}

// forms are the ways to run a command, by name.
func forms() map[string]func(t *testing.T, socket string, request object) outcome {
	return map[string]func(t *testing.T, socket string, request object) outcome{
		"one-shot": func(t *testing.T, socket string, request object) outcome {
			r := call(t, socket, request)
			return outcome{r.Data.Stdout, r.Data.Stderr, r.Data.ExitCode, r.Data.TimedOut, false, r.Error, r.Code}
		},
		"streamed": func(t *testing.T, socket string, request object) outcome {
			request["stream"] = true
			return followStream(t, socket, request)
		},
		"detached": func(t *testing.T, socket string, request object) outcome {
			request["stream"], request["detach"] = true, true
			return followStream(t, socket, request)
		},
	}
}

// followStream reads a stream to its end.
func followStream(t *testing.T, socket string, request object) (o outcome) {
	t.Helper()
	s := keep(t, socket)
	defer s.Close()
	s.send(request.line())
	if r := parseReply(t, s.receive()); !r.Success {
		return outcome{Message: r.Error, Code: r.Code}
	}
	frames := wire.NewFrameReader(s.lines)
	for {
		k, n, err := frames.Next()
		if err != nil {
			t.Fatalf("%v: %v", request, err)
		}
		payload := make([]byte, n)
		for got := 0; got < n; {
			m, err := frames.Read(payload[got:])
			if err != nil {
				t.Fatal(err)
			}
			got += m
		}
		switch k {
		case wire.KindStdout:
			o.Stdout += string(payload)
		case wire.KindStderr:
			o.Stderr += string(payload)
		case wire.KindExit:
			var e wire.ExecExit
			if err := json.Unmarshal(payload, &e); err != nil {
				t.Error(err)
			}
			o.ExitCode, o.TimedOut, o.OOM = e.ExitCode, e.TimedOut, e.OOMKilled
			return o
		case wire.KindError:
			var r reply
			if err := json.Unmarshal(payload, &r); err != nil {
				t.Error(err)
			}
			return outcome{Message: r.Error, Code: r.Code}
		default:
			t.Fatalf("%v: frame %d %q", request, k, payload)
		}
	}
}

// with adds fields to a script's request.
func with(script string, fields object) object {
	o := sh(script)
	maps.Copy(o, fields)
	return o
}

// TestExecOptions: each option holds in each form of exec, from the first moment
// of the command.
func TestExecOptions(t *testing.T) {
	needRoot(t)
	group := filepath.Join(t.TempDir(), "group")
	if err := os.WriteFile(group, []byte("sudo:x:27:\nown:x:77:nobody\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := spawn(t, prepare{Open: 1024, Mounts: []testMount{{group, "/etc/group", "", "bind"}}}, nil)
	for _, row := range []struct {
		name   string
		fields object
		script string
		want   string
	}{
		{"umask", object{"umask": "027"}, "umask", "0027\n"},
		{"umask 0", object{"umask": "0"}, "umask", "0000\n"},
		{"rlimits", object{"rlimits": object{"nofile": []int{100, 200}, "core": []int{0, -1}, "as": []int{1 << 30, 1 << 31}}},
			"ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc; ulimit -Sv; ulimit -Hv", "100\n200\n0\nunlimited\n1048576\n2097152\n"},
		{"fewer processes than the Go runtime has threads", object{"user": "54322", "rlimits": object{"nproc": []int{1, 1}}},
			`while read -r a b c d e; do test "$a $b" = "Max processes" && echo $c $d; done < /proc/self/limits; true`, "1 1\n"},
		{"less memory than the Go runtime has", object{"rlimits": object{"as": []int{64 << 20, 64 << 20}, "data": []int{1 << 20, 1 << 20}}}, "ulimit -v; ulimit -d", "65536\n1024\n"},
		{"groups", object{"groups": []string{"sudo", "54321"}}, "id -u; id -g; grep Groups /proc/self/status", "0\n0\nGroups:\t27 54321 \n"},
		{"groups of a user", object{"user": "54321:7", "groups": []string{"5", "6"}}, "id -u; id -g; grep Groups /proc/self/status", "54321\n7\nGroups:\t5 6 \n"},
		{"the user's groups", object{"user": "nobody"}, "grep Groups /proc/self/status", "Groups:\t77 \n"},
		{"other groups", object{"user": "nobody", "groups": []string{"sudo"}, "umask": "0"}, "grep Groups /proc/self/status", "Groups:\t27 \n"},
		{"no groups", object{"user": "nobody", "groups": []string{}}, "grep Groups /proc/self/status", "Groups:\t \n"},
		{"all at once", object{"user": "54321:7", "groups": []string{"5"}, "umask": "077", "rlimits": object{"nofile": []int{99, 99}}, "cwd": "/usr", "env": object{"A": "b c"}},
			`id -u; id -g; grep Groups /proc/self/status; umask; ulimit -Hn; pwd; echo "$A"`, "54321\n7\nGroups:\t5 \n0077\n99\n/usr\nb c\n"},
	} {
		for form, ask := range forms() {
			want := outcome{Stdout: row.want}
			if got := ask(t, a.socket, with(row.script, row.fields)); got != want {
				t.Errorf("%s, %s: %+v, want %+v", row.name, form, got, want)
			}
		}
	}
}

// TestStandardNames: what a command is given it can open by its name too, whoever it
// is; and /dev/null stays root's.
func TestStandardNames(t *testing.T) {
	needRoot(t)
	a := spawn(t, prepare{}, nil)
	const script = `: < /dev/stdin && echo out > /dev/stdout && echo err > /dev/stderr; stat -Lc %u /dev/null`
	for _, fields := range []object{{}, {"user": "54321:7"}, {"user": "54321", "umask": "077"}, {"groups": []string{"5"}}} {
		for form, ask := range forms() {
			want := outcome{Stdout: "out\n0\n", Stderr: "err\n"}
			if got := ask(t, a.socket, with(script, fields)); got != want {
				t.Errorf("%v, %s: %+v, want %+v", fields, form, got, want)
			}
		}
	}
	for _, size := range []int{0, 5, 1 << 20} { // in a pipe, and in a file
		input := strings.Repeat("x", size)
		request := object{"user": "54321", "stdin": base64Of([]byte(input))}
		if r := call(t, a.socket, with("cat /dev/stdin", request)); r.Data.Stdout != input {
			t.Errorf("%d bytes: %d, %s", size, len(r.Data.Stdout), r.Data.Stderr)
		}
	}
}

// TestShimIsClean: a command that hf-exec starts finds what any other finds.
// (FAULTS.md 1.20)
func TestShimIsClean(t *testing.T) {
	a := spawn(t, prepare{}, func(c *exec.Cmd) {
		// Go raises a soft limit for itself.
		c.Args = append([]string{"bash", "-c", `ulimit -S -n 500; exec -a hf-agent "$0" "$@"`, c.Path}, c.Args[1:]...)
		c.Path = "/bin/bash"
	})
	const look = `ls /proc/self/fd; readlink /proc/self/fd/0; pwd; env | sort; ulimit -a; ulimit -Ha
		grep -E '^(Sig|Shd|Uid|Gid|Groups|NoNewPrivs|Seccomp|Cap|Threads|Umask)' /proc/self/status | grep -v SigQ
		set -- $(cat /proc/self/stat); test $6 = $$ && echo a session of its own
		cat /proc/self/oom_score_adj; sed 's/[0-9]*-[0-9]*$//' /proc/self/cgroup; tr '\0' ' ' < /proc/$$/cmdline; cat /proc/$$/comm`
	for _, user := range []string{"", "54321", "0:0"} {
		fields := object{"env": object{"GOMEMLIMIT": "wrong", "GODEBUG": "inittrace=1", "GOGC": "1"}}
		if user != "" {
			fields["user"] = user
		}
		plain := call(t, a.socket, with(look, fields))
		fields["umask"] = "022"
		shimmed := call(t, a.socket, with(look, fields))
		if plain.Data.Stdout != shimmed.Data.Stdout || shimmed.Data.Stderr != "" || len(plain.Data.Stdout) < 1000 {
			t.Errorf("user %q:\n%s%s\nwithout options:\n%s", user, shimmed.Data.Stdout, shimmed.Data.Stderr, plain.Data.Stdout)
		}
	}
}

// TestShimErrors: a command that can't be run is told of as it is without options.
func TestShimErrors(t *testing.T) {
	needRoot(t)
	l := serve(t, testLimits())
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"script": "echo no #!", "lost": "#!/nosuch/interpreter\n", "elf": "\x7fELF\x02\x01\x01nonsense"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "secret")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(secret, "true"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		cmd    []string
		fields object
		code   int    // exit status
		errno  string // of a request that fails
	}{
		{[]string{"nosuch"}, nil, 127, ""},
		{[]string{"/nosuch"}, nil, 127, ""},
		{[]string{dir}, nil, 126, ""},
		{[]string{"/etc/passwd"}, nil, 126, ""},
		{[]string{dir + "/script"}, nil, 126, ""},
		{[]string{dir + "/lost"}, nil, 127, ""},
		{[]string{dir + "/elf"}, nil, 126, ""},
		{[]string{secret + "/true"}, object{"user": "54321"}, 126, ""},
		{[]string{"true"}, object{"user": "54321", "cwd": secret}, 126, ""},
		{[]string{"true", strings.Repeat("x", 200<<10)}, nil, 0, "E2BIG"},
	} {
		request := func(options object) object {
			o := object{"operation": "exec", "cmd": row.cmd}
			maps.Copy(o, row.fields)
			maps.Copy(o, options)
			return o
		}
		for form, ask := range forms() {
			plain, shimmed := ask(t, l.socket, request(nil)), ask(t, l.socket, request(object{"umask": "077"}))
			shimmed.Message = strings.ReplaceAll(shimmed.Message, ShimName+": ", "")
			if plain != shimmed || shimmed.ExitCode != row.code || shimmed.Code != row.errno || shimmed.Stdout != "" {
				t.Errorf("%.60q %s: %+v\nwithout options: %+v", row.cmd, form, shimmed, plain)
			}
		}
	}
	l.commands.mu.Lock()
	defer l.commands.mu.Unlock()
	eventually(t, "nothing is held", func() bool {
		l.commands.mu.Unlock()
		defer l.commands.mu.Lock()
		time.Sleep(time.Millisecond)
		return len(l.group.String()) == 0 || len(groupsOf(t, filepath.Join(l.group.String(), cgroup.Commands))) == 0
	})
}

// TestOptionsRefused: what can't be had is refused before the command starts, and
// says which option it was.
func TestOptionsRefused(t *testing.T) {
	needRoot(t)
	l := serve(t, testLimits())
	done := filepath.Join(t.TempDir(), "done")
	most, err := strconv.Atoi(strings.TrimSpace(readFile(t, "/proc/sys/fs/nr_open")))
	if err != nil {
		t.Fatal(err)
	}
	root, err := cgroup.Root()
	if err != nil {
		t.Skip(err)
	}
	type row struct {
		fields     object
		code, says string
	}
	rows := []row{
		{object{"rlimits": object{"nofile": []int{10, most + 1}}}, "EPERM", "rlimits: nofile: "},
		{object{"groups": []string{"no-such-group"}}, "EINVAL", "groups: "},
		{object{"groups": []string{""}}, "EINVAL", "groups: "},
		{object{"groups": []string{"-1"}}, "EINVAL", "groups: "},
		{object{"groups": []string{"4294967295"}}, "EINVAL", "groups: "},
		{object{"umask": "8"}, "EINVAL", "umask: "},
		{object{"rlimits": object{"files": []int{1, 2}}}, "EINVAL", "rlimits: "},
		{object{"memory_max": 1}, "EINVAL", "memory_max: "},
	}
	limits := map[string]object{"memory": {"memory_max": 64 << 20}, "pids": {"pids_max": 100}, "cpu": {"cpu_max": 1000}}
	controllers := strings.Fields(readFile(t, root.String()+"/cgroup.controllers"))
	for controller, fields := range limits {
		if !slices.Contains(controllers, controller) {
			rows = append(rows, row{fields, "ENOTSUP", controller + "_max: "})
		}
	}
	refused := func(l *live, fields object, code, says string) {
		for form, ask := range forms() {
			got := ask(t, l.socket, with("touch "+done, fields))
			if got.Code != code || !strings.Contains(got.Message, says) {
				t.Errorf("%v, %s: %+v, want %s %q", fields, form, got, code, says)
			}
			if exists(done) {
				t.Fatalf("%v, %s: it ran", fields, form)
			}
		}
	}
	for _, row := range rows {
		refused(l, row.fields, row.code, row.says)
	}
	l = serve(t, testLimits())
	l.commands.group = cgroup.Group{}
	for controller, fields := range limits {
		refused(l, fields, "ENOTSUP", controller+"_max: the guest has no cgroup v2")
	}
}

// TestShimWithoutClone3: where a process can't be started in a cgroup, one that
// hf-exec starts is there from its first moment all the same.
func TestShimWithoutClone3(t *testing.T) {
	needRoot(t)
	if _, err := cgroup.Root(); err != nil {
		t.Skip(err)
	}
	a := spawn(t, prepare{NoClone3: true}, nil)
	for range 10 {
		if r := run(t, a.socket, object{"cmd": []string{"cat", "/proc/self/cgroup"}, "umask": "077"}); !strings.Contains(r.Data.Stdout, "/commands/") {
			t.Errorf("%+v", r.Data)
		}
	}
}

// TestGrace: at its timeout a command is asked first, and has the time that it was
// given; what is left then is killed.
func TestGrace(t *testing.T) {
	l := serve(t, testLimits())
	const long = 5 * 60 * 1000
	for _, row := range []struct {
		name, script string
		grace        int64
		want         outcome
	}{
		{"one that listens", `exec 2>/dev/null; trap 'echo asked; exit 5' TERM; touch $READY; while :; do sleep 0.01; done`, long, outcome{Stdout: "asked\n", ExitCode: 5, TimedOut: true}},
		{"one that does not mind", `touch $READY; exec sleep 300`, long, outcome{ExitCode: 143, TimedOut: true}},
		{"one that is stopped", `trap 'exit 6' TERM; touch $READY; kill -STOP $$; sleep 300`, long, outcome{ExitCode: 6, TimedOut: true}},
		{"one that is deaf", `trap '' TERM; touch $READY; while :; do sleep 0.01; done`, 100, outcome{ExitCode: 137, TimedOut: true}},
	} {
		for form, ask := range forms() {
			ready := filepath.Join(t.TempDir(), "ready")
			var got outcome
			// Its time must not be up before it is what it is to be; and a machine may be
			// too slow to end in time what was killed.
			for timeout := 300; timeout < long && (!exists(ready) || got.Code == "EBUSY"); timeout *= 4 {
				got = ask(t, l.socket, with(row.script, object{"timeout": timeout, "grace": row.grace, "env": object{"READY": ready}}))
			}
			if got != row.want {
				t.Errorf("%s, %s: %+v, want %+v", row.name, form, got, row.want)
			}
		}
	}
	for form, ask := range forms() {
		if got := ask(t, l.socket, with("exit 7", object{"timeout": long, "grace": long})); got != (outcome{ExitCode: 7}) {
			t.Errorf("one that has ended, %s: %+v", form, got)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestGraceEnds: in its grace a command that leaves others behind ends with them,
// and one whose client goes has no more of it. (FAULTS.md 1.8)
func TestGraceEnds(t *testing.T) {
	l := serve(t, testLimits())
	needCgroup(t, l)
	request, path := treeRequest(t, l, family+escaped+"trap 'exit 0' TERM; while :; do sleep 0.01; done")
	request["grace"] = 20_000
	// It hears of it only once it has got to its last line.
	heard := func(r reply) bool { return wrote(path, 6)(r) && r.Data.ExitCode == 0 }
	if r := runTimeout(t, l.socket, request, 700, heard); !r.Data.TimedOut {
		t.Errorf("%+v", r.Data)
	}
	nothingRuns(t, l)

	asked := filepath.Join(t.TempDir(), "asked")
	for timeout := 300; timeout < 100_000 && !exists(asked); timeout *= 4 {
		s := keep(t, l.socket)
		s.send(with("trap 'touch "+asked+"' TERM; while :; do sleep 0.01; done", object{"timeout": timeout, "grace": 5 * 60 * 1000}).line())
		ended := make(chan struct{}) // too slow for its trap
		go func() { defer close(ended); _, _ = s.lines.ReadString('\n') }()
		eventually(t, "the command is asked", func() bool {
			select {
			case <-ended:
				return true
			default:
				return exists(asked)
			}
		})
		_ = s.Close()
	}
	nothingRuns(t, l)
}

// TestShimArguments: hf-exec does nothing by a command line that is wrong.
func TestShimArguments(t *testing.T) {
	for _, line := range []string{
		"", "exec=/bin/true", "true", "nonsense=1 exec=/bin/true true", "uid=root exec=/bin/true true", "uid=-1 exec=/bin/true true", "rlimit=7 exec=/bin/true true",
		"rlimit=7:1:2:3 exec=/bin/true true", "groups=1,,2 exec=/bin/true true", "groups=, exec=/bin/true true", "umask=x exec=/bin/true true", "--wrong",
	} {
		if _, err := shimCalls(strings.Fields(line)); err == nil {
			t.Errorf("%q is taken", line)
			continue // Shim would become /bin/true, and end the tests in silence
		}
		var stdout, stderr bytes.Buffer
		status := Shim(append([]string{ShimName}, strings.Fields(line)...), nil, &stdout, &stderr)
		if status != 2 || stdout.Len() > 0 || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: %d %q %q", line, status, &stdout, &stderr)
		}
	}
}

// TestGoneWhileShimStarts: a client that goes at once leaves nothing.
func TestGoneWhileShimStarts(t *testing.T) {
	l := serve(t, testLimits())
	for range 20 {
		s := keep(t, l.socket)
		s.send(with("sleep 300", object{"umask": "077", "timeout": 0}).line())
		_ = s.Close()
	}
	eventually(t, "no command is left", func() bool {
		l.commands.mu.Lock()
		defer l.commands.mu.Unlock()
		return len(l.commands.running) == 0
	})
}

// BenchmarkShim tells what the options cost a command that asks for them.
//
//	go test -run - -bench Shim -benchtime 500x ./applets/agent
func BenchmarkShim(b *testing.B) {
	a := spawn(b, prepare{}, nil)
	for _, row := range []struct{ name, fields string }{{"without", ""}, {"umask", `,"umask":"077"`}} {
		b.Run(row.name, func(b *testing.B) {
			s := keep(b, a.socket)
			median(b, func() {
				_ = s.SetDeadline(time.Now().Add(time.Minute))
				s.send(strings.Replace(execTrue, `,"keep_alive"`, row.fields+`,"keep_alive"`, 1))
				if line := s.receive(); !strings.Contains(line, `"exit_code":0,`) {
					b.Fatal(line)
				}
			})
		})
	}
}
