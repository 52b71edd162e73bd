package rootfsskel

import (
	"fmt"
	"os"
	"strconv"
)

// defaultMTime is 1980-01-01: a time that is fixed, and that no tool takes for a
// broken clock.
const defaultMTime = 315532800

// maxMTime is the last second that fits every format's field.
const maxMTime = 1<<31 - 1

// A Config says what goes into a tree.
type Config struct {
	Program     Program
	MountPoints []MountPoint
	Devices     []Device
	Overlays    []string // directories of this machine; a later one wins over an earlier one
	Userland    *Userland
	Modules     *Modules
	Times       Times
	Note        func(string) // told, in one line, what was not done as asked; may be nil
}

// Times is the rule for times.
type Times struct {
	epoch int64
	set   bool
}

// TimesFrom returns the rule for a value of SOURCE_DATE_EPOCH; the empty string
// stands for no value.
func TimesFrom(env string) (Times, error) {
	if env == "" {
		return Times{epoch: defaultMTime}, nil
	}
	sec, err := strconv.ParseInt(env, 10, 64)
	if err != nil || sec < 0 || sec > maxMTime {
		return Times{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s: not a number of seconds from 0 to %d", env, maxMTime)
	}
	return Times{epoch: sec, set: true}, nil
}

// Made is the time of what the skeleton makes.
func (t Times) Made() int64 { return t.epoch }

// Found is the time of a file that was found with this one.
func (t Times) Found(mtime int64) int64 {
	limit := int64(maxMTime)
	if t.set {
		limit = t.epoch
	}
	return max(0, min(mtime, limit))
}

// builder is a tree while it is being filled.
type builder struct {
	t     *Tree
	times Times
	tell  func(string)
}

// Build returns the tree. The layers go in by precedence: who comes first, wins.
func Build(c Config) (*Tree, error) {
	b := &builder{NewTree(c.Times.Made()), c.Times, c.Note}
	for _, dir := range c.Overlays {
		if err := b.putOverlay(dir); err != nil {
			return nil, fmt.Errorf("overlay %s: %w", dir, err)
		}
	}
	// The links of a merged /usr have to be there before what they lead to.
	if err := b.fillSkeleton(c); err != nil {
		return nil, fmt.Errorf("skeleton: %w", err)
	}
	if err := b.putProgram(c.Program); err != nil {
		return nil, err
	}
	if c.Userland != nil {
		if err := b.fillUserland(c.Userland); err != nil {
			return nil, fmt.Errorf("userland: %w", err)
		}
	}
	if c.Modules != nil {
		if err := b.fillModules(c.Modules); err != nil {
			return nil, fmt.Errorf("modules: %w", err)
		}
	}
	return b.t, nil
}

func (b *builder) note(format string, args ...any) {
	if b.tell != nil {
		b.tell(fmt.Sprintf(format, args...))
	}
}

// fill is Fill, but a path that can't be had because of what an overlay has in its
// way is told and left out.
func (b *builder) fill(p string, n *Inode) error {
	_, err := b.t.Fill(p, n)
	if isNotPlace(err) {
		b.note("%s: left out: %v", p, err)
		return nil
	}
	return err
}

// EpochFromEnv returns the rule that the environment asks for.
func EpochFromEnv() (Times, error) { return TimesFrom(os.Getenv("SOURCE_DATE_EPOCH")) }
