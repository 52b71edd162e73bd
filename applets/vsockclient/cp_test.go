//go:build linux

package vsockclient

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/init/applets/client"
	"github.com/hyperfleet/init/applets/internal/agenttest"
)

// A lane is a way to an agent on which a test can count, stop and cut.
type lane struct {
	passed atomic.Int64             // bytes, both ways
	limit  func(passed int64) error // of it: an error cuts the connection
}

func (l *lane) to(t *testing.T, g *guest) string {
	return agenttest.Listen(t, func(c net.Conn) {
		agent, err := net.Dial("unix", g.sock)
		if err != nil {
			return
		}
		done := make(chan struct{}, 2)
		for _, way := range [][2]net.Conn{{c, agent}, {agent, c}} {
			go func() {
				defer func() { done <- struct{}{} }()
				buf := make([]byte, 64<<10)
				for {
					n, err := way[0].Read(buf)
					if err == nil && l.limit != nil {
						err = l.limit(l.passed.Add(int64(n)))
					} else {
						l.passed.Add(int64(n))
					}
					if err == nil {
						_, err = way[1].Write(buf[:n])
					}
					if err != nil {
						return
					}
				}
			}()
		}
		<-done
		_ = agent.Close()
		_ = c.Close()
		<-done
	})
}

func randomFile(t *testing.T, name string, size int) []byte {
	t.Helper()
	content := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size)})
	_, _ = random.Read(content)
	if err := os.WriteFile(name, content, 0o640); err != nil {
		t.Fatal(err)
	}
	return content
}

// A copy that is cut off goes on where it was, in both directions.
func TestCopyIsResumed(t *testing.T) {
	g := liveAgent(t)
	for _, vm := range [][2]string{{"", "vm:"}, {"vm:", ""}} {
		dir := t.TempDir()
		to := filepath.Join(dir, "to")
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		src, dst := filepath.Join(dir, "src"), filepath.Join(to, "dst")
		const size = 8 << 20
		content := randomFile(t, src, size)
		copyBy := func(l *lane) (int, string) {
			status, _, stderr := invoke("", "--unix", l.to(t, g), "cp", "--resume", vm[0]+src, vm[1]+dst)
			return status, stderr
		}
		cut := &lane{limit: func(passed int64) error {
			if passed > size/2 {
				return io.ErrClosedPipe
			}
			return nil
		}}
		if status, stderr := copyBy(cut); status != 1 || stderr == "" {
			t.Fatalf("cut off: %d, %q", status, stderr)
		}
		if left, err := os.ReadDir(to); err != nil || len(left) != 1 || left[0].Name() == "dst" || left[0].Name()[0] != '.' {
			t.Fatalf("cut off: %v, %v", left, err)
		}
		var rest *lane
		eventually(t, "the agent knows that the first connection is gone", func() bool {
			rest = new(lane)
			status, stderr := copyBy(rest)
			if status != 0 && !strings.Contains(stderr, "another connection is at this upload") {
				t.Fatalf("%d, %q", status, stderr)
			}
			return status == 0
		})
		if n := rest.passed.Load(); n > size*3/4 {
			t.Errorf("%s: %d of %d bytes came again", vm[0], n, size)
		}
		info, err := os.Stat(dst)
		if got, _ := os.ReadFile(dst); err != nil || !bytes.Equal(got, content) || info.Mode() != 0o640 {
			t.Errorf("%s: %d bytes, %v, %v", vm[0], len(got), info.Mode(), err)
		}
		if left, _ := os.ReadDir(to); len(left) != 1 {
			t.Errorf("%s: %v is left", vm[0], left)
		}
	}
}

// What is there of another file is noticed in the end, and not gone on with.
func TestResumedCopyIsVerified(t *testing.T) {
	liveAgent(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	content := randomFile(t, src, 1<<20)
	info, err := os.Stat(src)
	if err != nil {
		t.Fatal(err)
	}
	// By the time that file_stat tells, which has whole seconds.
	part := filepath.Join(dir, ".dst."+partName(src, info.Size(), info.ModTime().Truncate(1e9))+".part")
	if err := os.WriteFile(part, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, stderr := invoke("", "cp", "--resume", "vm:"+src, dst); status != 1 || !strings.Contains(stderr, "try again") {
		t.Fatalf("%d, %q", status, stderr)
	}
	if status, _, stderr := invoke("", "cp", "--resume", "vm:"+src, dst); status != 0 || stderr != "" {
		t.Fatalf("%d, %q", status, stderr)
	}
	if got, _ := os.ReadFile(dst); !bytes.Equal(got, content) {
		t.Errorf("%d bytes", len(got))
	}
}

// A program that runs as its owner does not become one that runs as root, whom the
// copy belongs to; with -p the owner is kept too.
func TestCopyOfSetuid(t *testing.T) {
	liveAgent(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	randomFile(t, src, 10)
	all := 0o755 | os.ModeSetuid | os.ModeSetgid | os.ModeSticky
	if err := os.Chmod(src, all); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]os.FileMode{"--": 0o755, "-p": all} {
		if status, _, stderr := invoke("", "cp", flag, src, "vm:"+dst+flag); status != 0 {
			t.Fatalf("%s: %d, %q", flag, status, stderr)
		}
		if info, err := os.Stat(dst + flag); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", flag, info.Mode(), err)
		}
	}
}

// A guest's setuid program does not become one of a user who copies it with -p: the
// owner, whose it is, is not kept then.
func TestKeepByUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
	path := t.TempDir()
	randomFile(t, filepath.Join(path, "f"), 10)
	const user = 65534
	if err := os.Chown(filepath.Join(path, "f"), user, user); err != nil {
		t.Fatal(err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	kept := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread, which alone is the user's, ends with this
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), user, ^uintptr(0)); errno != 0 {
			kept <- errno
			return
		}
		kept <- keep(dir, "f", client.Attr{Mode: 0o751 | os.ModeSetuid | os.ModeSetgid, ModTime: time.Unix(1, 0)})
	}()
	if err := <-kept; err != nil {
		t.Fatal(err)
	}
	if info, err := dir.Stat("f"); err != nil || info.Mode() != 0o751 || info.ModTime().Unix() != 1 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// On a terminal a line shows how far it is, as wide as that is, and then the sum.
func TestCopyShowsProgress(t *testing.T) {
	g := liveAgent(t)
	dir := t.TempDir()
	src := filepath.Join(dir, strings.Repeat("long", 20))
	const total = 8 << 20
	randomFile(t, src, total)
	_, sum, _ := invoke("", "hash", src)
	// It comes drop by drop, until the test has seen enough.
	var enough atomic.Bool
	slow := &lane{limit: func(passed int64) error {
		drops := 0
		switch {
		case passed > total*3/4:
			drops = 25
		case passed > total/2:
			drops = 1
		}
		for ; drops > 0 && !enough.Load(); drops-- {
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}}
	c := onConsole(t, 24, 70, "--unix", slow.to(t, g), "cp", "vm:"+src, filepath.Join(dir, "dst"))
	bar := regexp.MustCompile(`^[long]+ \[#+\.+\] +\d+%  \d.\d MiB  .*/s  \d+:\d\d$`)
	for _, columns := range []int{70, 60, 100} {
		c.resize(24, columns)
		c.await("the bar", func(s *screen) bool {
			line := s.line(s.row)
			return bar.MatchString(line) && len(line) == columns-1
		})
	}
	enough.Store(true)
	if status, restored := c.end(); status != 0 || !restored {
		t.Errorf("status %d, terminal restored: %v", status, restored)
	}
	c.awaitText(strings.Fields(sum)[0])
}
