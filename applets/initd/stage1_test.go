//go:build linux

package initd_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hyperfleet/init/applets"
	"github.com/hyperfleet/init/applets/internal/agenttest"
	"github.com/hyperfleet/init/applets/nsguest"
	"golang.org/x/sys/unix"
)

const stage1Name = "hf-stage1"

// A stage is how the first stage prepares a guest, on a root of its own, before it
// becomes /init.
type stage struct {
	Binary   string            // what is installed as /init
	Tools    string            // what is installed as /bin/hfx; empty for Binary
	Root     string            // an empty directory of the machine, to mount on
	Args     []string          // of init
	Env      []string          // of init
	Files    map[string]string // made in the root
	Without  []string          // directories that are missing from it
	ReadOnly bool
	CloseFDs bool
	EmptyDev bool     // not even /dev/null is in it
	Mounted  []string // directories on which something is mounted already
	Bound    []string // directories on which another of the root is
	NoCalls  []uint32 // system calls that the kernel does not have
	Hung     []uint32 // system calls that never return
	FUSE     bool     // descriptor 3 is the server's of a filesystem for /mnt
	OldRoot  bool     // leave the machine's /proc where it is
	Unlinked bool     // remove /init when it runs, and have no /proc to find it by
}

// stage1 is process 1 of new namespaces. It does not return.
func stage1(config string) {
	if !nsguest.Inside() {
		panic("not in a namespace")
	}
	runtime.LockOSThread() // unshare below is for this thread
	unix.Umask(0o022)      // as the kernel starts PID 1, whatever that of the tests
	var s stage
	err := json.Unmarshal([]byte(config), &s)
	if err == nil {
		err = s.prepare()
	}
	if err == nil {
		if s.CloseFDs {
			_ = unix.CloseRange(0, 2, 0)
		}
		argv := append([]string{"/init"}, s.Args...)
		if len(s.NoCalls) > 0 {
			err = withoutCalls(s.NoCalls)
		}
		if len(s.Hung) > 0 {
			err = hangCalls(s.Hung)
		}
		if err != nil {
			panic(err)
		}
		if s.Unlinked {
			err = execUnlinked("/init", argv, s.Env)
		} else {
			err = unix.Exec("/init", argv, s.Env)
		}
	}
	fmt.Fprintln(os.Stderr, "stage 1:", err)
	os.Exit(99)
}

// execUnlinked executes a file that is gone then.
func execUnlinked(path string, argv, env []string) error {
	f, err := os.Open(path)
	if err == nil {
		err = errors.Join(os.Remove(path), os.Remove("/proc"), os.WriteFile("/proc", nil, 0o644))
	}
	if err != nil {
		return err
	}
	empty, _ := unix.BytePtrFromString("")
	argvp, err := syscall.SlicePtrFromStrings(argv)
	if err != nil {
		return err
	}
	envp, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, f.Fd(), uintptr(unsafe.Pointer(empty)),
		uintptr(unsafe.Pointer(&argvp[0])), uintptr(unsafe.Pointer(&envp[0])), unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("execveat %s: %w", path, errno)
}

func (s *stage) prepare() error {
	err := nsguest.Enter(s.Root, func() error {
		if err := s.populate(); err != nil || !s.OldRoot {
			return err
		}
		return os.NewSyscallError("bind /proc", unix.Mount("/proc", s.Root+"/proc", "", unix.MS_BIND, ""))
	})
	for _, dir := range s.Without {
		err = errors.Join(err, unix.Rmdir(dir))
	}
	for _, dir := range s.Mounted {
		err = errors.Join(err, unix.Mount("there-before", dir, "tmpfs", 0, "mode=0755"), os.WriteFile(dir+"/there-before", nil, 0o644))
	}
	for i, dir := range s.Bound {
		source := fmt.Sprint("/bound", i)
		err = errors.Join(err, os.Mkdir(source, 0o755), unix.Mount(source, dir, "", unix.MS_BIND, ""), os.WriteFile(dir+"/there-before", nil, 0o644))
	}
	if s.FUSE {
		const options = "fd=3,rootmode=40000,user_id=0,group_id=0"
		err = errors.Join(err, os.Mkdir("/mnt", 0o755), unix.Mount("hangs", "/mnt", "fuse", 0, options), unix.Close(3))
	}
	err = errors.Join(err, nsguest.Starting())
	if s.ReadOnly {
		err = errors.Join(err, unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	}
	return err
}

func (s *stage) populate() error {
	install := map[string]string{"/init": s.Binary}
	if s.Tools != "" {
		install["/bin/hfx"] = s.Tools
	}
	for name, from := range install {
		if err := nsguest.CopyFile(from, s.Root+name); err != nil {
			return err
		}
		for _, lib := range agenttest.Libraries(from) {
			if err := nsguest.CopyFile(lib, s.Root+lib); err != nil {
				return err
			}
		}
	}
	for _, link := range append(applets.Links(), "/bin/hfx") {
		if err := os.Symlink("/init", s.Root+link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	for name, content := range s.Files {
		if err := os.WriteFile(s.Root+name, []byte(content), 0o755); err != nil {
			return err
		}
	}
	if s.EmptyDev {
		return nil
	}
	return nsguest.Null(s.Root)
}

// executable is this test binary.
func executable(t testing.TB) string {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
