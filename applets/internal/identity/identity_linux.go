// Package identity finds out what a user is: ids, groups and home directory, from
// /etc/passwd and /etc/group alone.
package identity

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// An Identity is what a process runs as.
type Identity struct {
	Name   string // "" if the uid has none
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
	Home   string

	own bool // that of this process, whatever it is
}

// Lookup reads "", "NAME", "UID", and either with ":GROUP" or ":GID" behind it.
// "" is this process's own user, which is root for an agent that is more than an
// experiment, whatever /etc/passwd says. A uid that is not in /etc/passwd gets
// the gid of the same number and / as its home.
func Lookup(spec string) (Identity, error) {
	if spec == "" {
		return Identity{Home: "/root", own: true}, nil
	}
	user, group, hasGroup := strings.Cut(spec, ":")
	id, err := lookupUser(user)
	if err != nil {
		return Identity{}, err
	}
	if hasGroup {
		if id.GID, err = lookupGroup(group); err != nil {
			return Identity{}, err
		}
		id.Groups = nil // a group that was asked for is the only one
		return id, nil
	}
	return id, nil
}

// Credential is the identity as a new process takes it on; nil if this process
// has it already.
func (id Identity) Credential() *syscall.Credential {
	if id.own || id.UID == 0 && id.GID == 0 && len(id.Groups) == 0 && os.Getuid() == 0 {
		return nil
	}
	return &syscall.Credential{Uid: id.UID, Gid: id.GID, Groups: id.Groups}
}

// CredentialWith is Credential with other supplementary groups, by their names or
// numbers.
func (id Identity) CredentialWith(groups []string) (*syscall.Credential, error) {
	c := &syscall.Credential{Uid: id.UID, Gid: id.GID}
	if id.own {
		c.Uid, c.Gid = uint32(os.Geteuid()), uint32(os.Getegid())
	}
	for _, g := range groups {
		gid, err := lookupGroup(g)
		if err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, gid)
	}
	return c, nil
}

func lookupUser(user string) (Identity, error) {
	var id Identity
	found := errors.New("found")
	err := each("/etc/passwd", 7, func(f []string) error {
		uid, uidErr := parseID(f[2])
		gid, gidErr := parseID(f[3])
		if uidErr == nil && gidErr == nil && (f[0] == user || f[2] == user) {
			id = Identity{Name: f[0], UID: uid, GID: gid, Home: f[5]}
			return found
		}
		return nil
	})
	if err == nil {
		uid, numErr := parseID(user)
		if numErr != nil {
			return Identity{}, fmt.Errorf("%q: %w", user, unknown("user"))
		}
		return Identity{UID: uid, GID: uid, Home: "/"}, nil
	}
	if err != found {
		return Identity{}, err
	}
	err = each("/etc/group", 4, func(f []string) error {
		gid, err := parseID(f[2])
		for member := range strings.SplitSeq(f[3], ",") {
			if err == nil && member == id.Name {
				id.Groups = append(id.Groups, gid)
			}
		}
		return nil
	})
	return id, err
}

func lookupGroup(group string) (uint32, error) {
	if gid, err := parseID(group); err == nil {
		return gid, nil
	}
	var gid uint32
	found := errors.New("found")
	err := each("/etc/group", 4, func(f []string) (err error) {
		if f[0] != group {
			return nil
		}
		if gid, err = parseID(f[2]); err != nil {
			return err
		}
		return found
	})
	switch err {
	case found:
		return gid, nil
	case nil:
		return 0, fmt.Errorf("%q: %w", group, unknown("group"))
	}
	return 0, err
}

// unknown reports a name that is in no list; it is an EINVAL.
func unknown(what string) error { return unknownError(what) }

type unknownError string

func (e unknownError) Error() string { return "no such " + string(e) }
func (e unknownError) Unwrap() error { return syscall.EINVAL }

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = syscall.EINVAL // (uid_t) -1 means "no change" to the kernel
	}
	return uint32(n), err
}

// each calls f with the fields of each line that has n of them. A file that is
// not there has no lines.
func each(file string, n int, f func(fields []string) error) error {
	r, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	return eachLine(r, n, f)
}

func eachLine(r io.Reader, n int, f func(fields []string) error) error {
	lines := bufio.NewReader(r)
	for {
		line, readErr := lines.ReadString('\n')
		if fields := strings.Split(strings.TrimSuffix(line, "\n"), ":"); len(fields) == n {
			if err := f(fields); err != nil {
				return err
			}
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}
