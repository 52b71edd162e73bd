package reaper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is its own children: "exit N" ends with N, "die N" by signal N,
// and "orphans PARENTS" leaves processes that end by themselves. "reap" is the
// test itself, in a process that may reap whatever it has.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		n, _ := strconv.Atoi(os.Args[2])
		switch os.Args[1] {
		case "exit":
			os.Exit(n)
		case "die":
			_ = unix.Kill(os.Getpid(), unix.Signal(n))
			time.Sleep(time.Minute)
		case "orphans":
			exe, _ := os.Executable()
			for range n {
				if (&exec.Cmd{Path: exe, Args: []string{"x", "exit", "200"}}).Start() != nil {
					os.Exit(1)
				}
			}
			os.Exit(0)
		case "reap":
			if err := reap(n); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// No status is lost or mixed up, however soon a child ends, whatever else there
// is to reap. In a process of its own, since it reaps all that it has.
func TestReap(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, "reap", strconv.Itoa(children))
	cmd.WaitDelay = 10 * time.Second // its own children go on to hold the pipe
	// The race detector would sleep for a second at the end of each.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// children is how many processes are started, quickly, beside the orphans.
const children = 2000 / raced

func reap(children int) error {
	// Its descendants' orphans are its own.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	r := New()
	reaped := 0
	var enough atomic.Bool
	var reaping sync.WaitGroup
	reaping.Go(func() {
		for ; !enough.Load(); Await() {
			n, _ := r.Reap()
			reaped += n
		}
	})
	start := make(chan int)
	failed := make(chan error, children)
	var ended, workers sync.WaitGroup
	one := func(i int) {
		argv, want := command(i)
		ended.Add(1)
		attr := &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Env: os.Environ()}
		path, _ := os.Executable()
		var pid int
		var known sync.Mutex
		known.Lock()
		defer known.Unlock()
		pid, err := r.Start(path, argv, attr, func(got int, status syscall.WaitStatus) {
			go func() {
				defer ended.Done()
				known.Lock()
				defer known.Unlock()
				if got != pid || ExitCode(status) != want {
					failed <- fmt.Errorf("%q: process %d, %s; want %d, %d", argv, got, Describe(status), pid, want)
				}
			}()
		})
		if err != nil {
			failed <- err
			ended.Done()
		}
	}
	for range 8 {
		workers.Go(func() {
			for i := range start {
				one(i)
			}
		})
	}
	for i := range children {
		start <- i
	}
	close(start)
	workers.Wait()
	ended.Wait()
	enough.Store(true)
	reaping.Wait()
	rest, err := reapRest(r)
	if err != nil {
		return err
	}
	reaped += rest
	if orphans := children / 100 * 5; reaped != children+orphans {
		failed <- fmt.Errorf("%d reaped, want %d children and %d orphans", reaped, children, orphans)
	}
	if len(r.children) != 0 {
		failed <- fmt.Errorf("%d children stay in the list", len(r.children))
	}
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// reapRest reaps until no process is left.
func reapRest(r *Reaper) (reaped int, err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		n, none := r.Reap()
		reaped += n
		if none {
			return reaped, nil
		}
	}
	return reaped, errors.New("processes are left")
}

// command is what child i runs, and the status that it must end with.
func command(i int) (argv []string, want int) {
	switch {
	case i%10 == 9:
		return []string{"x", "die", "9"}, 137
	case i%100 == 50:
		return []string{"x", "orphans", "5"}, 0
	}
	return []string{"x", "exit", strconv.Itoa(i % 200)}, i % 200
}

func TestStartFails(t *testing.T) {
	r := New()
	pid, err := r.Start("/no/such", []string{"x"}, &syscall.ProcAttr{}, func(int, syscall.WaitStatus) { t.Error("it ended") })
	if pid != 0 || !errors.Is(err, fs.ErrNotExist) || len(r.children) != 0 {
		t.Errorf("%d, %v, %v", pid, err, r.children)
	}
	if err == nil || err.Error() != "fork/exec /no/such: no such file or directory" {
		t.Error(err)
	}
}

func TestDescribe(t *testing.T) {
	for _, test := range []struct {
		status syscall.WaitStatus
		text   string
		code   int
	}{
		{0, "exit status 0", 0},
		{3 << 8, "exit status 3", 3},
		{255 << 8, "exit status 255", 255},
		{9, "killed by SIGKILL", 137},
		{11 | 0x80, "killed by SIGSEGV", 139}, // with a core dump
		{40, "killed by signal 40", 168},
	} {
		if text, code := Describe(test.status), ExitCode(test.status); text != test.text || code != test.code {
			t.Errorf("%#x: %q, %d; want %q, %d", uint32(test.status), text, code, test.text, test.code)
		}
	}
}
