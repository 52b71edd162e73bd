package handoff

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// As a child the test binary prints what it inherited.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "inherit" {
		if pid := os.Getenv("LISTEN_PID"); pid == "self" {
			os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		}
		os.Exit(inherit())
	}
	os.Exit(m.Run())
}

func inherit() int {
	listeners, ctl, err := Inherited()
	if err != nil {
		fmt.Println("error:", err)
		return 0
	}
	left := slices.DeleteFunc(os.Environ(), func(w string) bool { return !strings.HasPrefix(w, "LISTEN_") })
	fmt.Printf("listeners=%d control=%v environment=%q", len(listeners), ctl != nil, left)
	for _, l := range listeners {
		flags, err := unix.FcntlInt(l.Fd(), unix.F_GETFD, 0)
		fmt.Printf(" %s:cloexec=%v,%v", l.Name(), flags&unix.FD_CLOEXEC != 0, err)
	}
	fmt.Println()
	if ctl == nil {
		return 0
	}
	if err := ctl.Send(Ready, nil); err != nil {
		fmt.Println(err)
	}
	m, f, err := ctl.Receive()
	fmt.Printf("%c with a file: %v, %v\n", m, f != nil, err)
	if f != nil {
		l, err := net.FileListener(f)
		fmt.Printf("a listener: %v, %v\n", l != nil, err)
	}
	return 0
}

func TestEnvironment(t *testing.T) {
	for n, want := range map[int][]string{
		0: {"LISTEN_FDS=1", "LISTEN_FDNAMES=control"},
		2: {"LISTEN_FDS=3", "LISTEN_FDNAMES=listener:listener:control"},
	} {
		if got := Environment(n); !slices.Equal(got, want) {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// listener returns a listening socket as a file.
func listener(t *testing.T) *os.File {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func child(t *testing.T, env []string, files ...*os.File) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "inherit")
	cmd.Env, cmd.ExtraFiles = append([]string{"GORACE=atexit_sleep_ms=0"}, env...), files
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

func TestInherited(t *testing.T) {
	a, b := listener(t), listener(t)
	for _, test := range []struct {
		name string
		env  []string
		want string
	}{
		{"nothing", nil, `listeners=0 control=false environment=[]`},
		{"systemd", []string{"LISTEN_FDS=2", "LISTEN_PID=self", "LISTEN_FDNAMES=vsock:unix"},
			`listeners=2 control=false environment=[] vsock:cloexec=true,<nil> unix:cloexec=true,<nil>`},
		{"no names", []string{"LISTEN_FDS=1", "LISTEN_PID=self"}, `listeners=1 control=false environment=[] :cloexec=true,<nil>`},
		{"another's", []string{"LISTEN_FDS=2", "LISTEN_PID=1"}, `listeners=0 control=false environment=[]`},
		{"none", []string{"LISTEN_FDS=0"}, `listeners=0 control=false environment=[]`},
		{"nonsense", []string{"LISTEN_FDS=two"}, `error: LISTEN_FDS="two": not a number of descriptors`},
		{"negative", []string{"LISTEN_FDS=-1"}, `error: LISTEN_FDS="-1": not a number of descriptors`},
		{"too many", []string{"LISTEN_FDS=99999999"}, `error: LISTEN_FDS="99999999": not a number of descriptors`},
	} {
		cmd, out := child(t, test.env, a, b)
		if err := cmd.Wait(); err != nil || out.String() != test.want+"\n" {
			t.Errorf("%s: %v, %q, want %q", test.name, err, out, test.want)
		}
	}
}

// The whole way: a socket that is open at the start, and one that comes later.
func TestHandoff(t *testing.T) {
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	cmd, out := child(t, Environment(1), listener(t), theirs)
	theirs.Close()
	if m, f, err := ours.Receive(); m != Ready || f != nil || err != nil {
		t.Fatalf("%c, %v, %v", m, f, err)
	}
	if err := ours.Send(Listener, listener(t)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	want := "listeners=1 control=true environment=[] listener:cloexec=true,<nil>\nl with a file: true, <nil>\na listener: true, <nil>\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out, want)
	}
	if _, _, err := ours.Receive(); err != io.EOF {
		t.Errorf("the other end is gone: %v, want EOF", err)
	}
	if err := ours.Send(Stopping, nil); !errors.Is(err, unix.EPIPE) {
		t.Errorf("%v, want EPIPE", err)
	}
}

// Who waits for a message is woken by Close, and Send waits for nobody.
func TestControlDoesNotBlock(t *testing.T) {
	ours, theirs, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	received := make(chan error, 1)
	go func() { _, _, err := ours.Receive(); received <- err }()
	sent := make(chan error, 1)
	go func() {
		for {
			if err := ours.Send(Listener, nil); err != nil {
				sent <- err
				return
			}
		}
	}()
	select {
	case err := <-sent:
		if !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%v, want EAGAIN", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Send waits")
	}
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-received:
		if err == nil {
			t.Error("a message from nobody")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("Receive still waits")
	}
}
