//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"runtime/debug"
	"slices"

	"github.com/hyperfleet/init/applets/wire"
	"golang.org/x/sys/unix"
)

// A request is one line, read whole: what it carries waits in spools.
type request struct {
	wire.Header
	fields  wire.Fields
	content *spool // of file_write
	asked   bool   // where content goes
	target  *target
	stdin   *spool // of exec
	conn    *conn
	lines   *wire.Reader
	stream  *stream // nil until the operation begins one
}

// close gives back what the request holds.
func (r *request) close() {
	r.content.close()
	r.stdin.close()
	r.target.close()
	r.lines.Free()
}

// newReply starts a reply whose content passes through the connection's memory.
func (r *request) newReply() *wire.Reply {
	reply := wire.NewReply(r.conn)
	reply.Memory = r.conn.memory
	return reply
}

// An operation answers a request. It writes a reply and returns nil, or returns
// an error and has written nothing; errReplying is the one between.
type operation func(a *Agent, r *request) error

// operations is the protocol: each name, and the function that serves it.
func operations() map[string]operation {
	ops := map[string]operation{
		wire.OpPing:       (*Agent).ping,
		wire.OpInfo:       (*Agent).info,
		wire.OpFileRead:   (*Agent).fileRead,
		wire.OpFileWrite:  (*Agent).fileWrite,
		wire.OpFileStat:   (*Agent).fileStat,
		wire.OpFileDelete: (*Agent).fileDelete,
		wire.OpExec:       (*Agent).exec,
		wire.OpForward:    streaming((*Agent).forward),
		wire.OpPS:         (*Agent).ps,
		wire.OpListen:     streaming((*Agent).listen),
		wire.OpAccept:     streaming((*Agent).accept),
		wire.OpLogs:       streaming((*Agent).logs),
		wire.OpStats:      (*Agent).stats,

		wire.OpFileGet:      streaming((*Agent).fileGet),
		wire.OpFilePut:      (*Agent).filePut,
		wire.OpFileList:     (*Agent).fileList,
		wire.OpFileMkdir:    (*Agent).fileMkdir,
		wire.OpFileRename:   (*Agent).fileRename,
		wire.OpFileCopy:     (*Agent).fileCopy,
		wire.OpFileChmod:    (*Agent).fileChmod,
		wire.OpFileChown:    (*Agent).fileChown,
		wire.OpFileSymlink:  (*Agent).fileSymlink,
		wire.OpFileReadlink: (*Agent).fileReadlink,
		wire.OpFileTruncate: (*Agent).fileTruncate,
		wire.OpFileHash:     (*Agent).fileHash,

		wire.OpTarGet:    streaming((*Agent).tarGet),
		wire.OpTarPut:    streaming((*Agent).tarPut),
		wire.OpFileWatch: streaming((*Agent).fileWatch),

		wire.OpSessionList:   (*Agent).sessionList,
		wire.OpSessionAttach: streaming((*Agent).sessionAttach),
		wire.OpSessionSignal: (*Agent).sessionSignal,
		wire.OpSessionWait:   (*Agent).sessionWait,
		wire.OpSessionRemove: (*Agent).sessionRemove,
	}
	maps.Copy(ops, debugOperations())
	return ops
}

// streaming makes of an operation one that needs a place for its stream.
func streaming(op operation) operation {
	return func(a *Agent, r *request) error {
		if err := a.beginStream(r.conn); err != nil {
			return err
		}
		return op(a, r)
	}
}

// errReplying wraps an error that struck in the middle of a reply. Nothing can be
// said any more: the connection is cut, and the line stays without its end.
type errReplying struct{ error }

// replying marks err, if it is one, as struck in the middle of a reply.
func replying(err error) error {
	if err != nil {
		return errReplying{err}
	}
	return nil
}

// serve answers the requests of one connection.
func (a *Agent) serve(c *conn) {
	lines := wire.NewReader(c, a.limits.Line)
	lines.Memory = c.memory
	defer lines.Close()
	for {
		r, err := a.read(c, lines)
		unread := err != nil
		if err == nil {
			err = a.answer(r)
			r.close()
			a.endStream(c) // or it did not begin
		}
		var cut errReplying
		switch {
		case err == nil && r.stream != nil:
		case !unread && r.stream != nil && !errors.As(err, &cut):
			if r.stream.fail(err) != nil {
				return
			}
			unread = true // the client may have more frames on their way
		case err == nil && r.KeepAlive && a.again(c):
			continue
		case err == nil:
		case errors.As(err, &cut):
			a.log.Debug("a reply was cut off", "err", err)
			return
		case unread && isTransport(err):
			return
		default:
			message, code := describe(err)
			if wire.WriteFailure(c, message, code) != nil {
				return
			}
			// An operation that failed leaves the connection as it was; a line
			// that was not understood does not.
			if !unread && r.KeepAlive && !errors.As(err, new(*wire.FieldError)) && a.again(c) {
				continue
			}
		}
		if unread {
			c.wait() // so that it can be closed for another: what it said was refused
		}
		c.linger(unread)
		return
	}
}

// isTransport tells whether an error of reading a request is one of the
// connection, about which there is nobody to tell: its end, a deadline, a reset.
// A request that was cut off is one of them, and is not run.
func isTransport(err error) bool {
	var opErr *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &opErr)
}

// read reads a request to its end. Content goes to where it will be needed while
// it comes in; nothing is done yet.
func (a *Agent) read(c *conn, lines *wire.Reader) (*request, error) {
	r := &request{conn: c, lines: lines}
	line, err := lines.ReadLine(func(path string, line []byte) io.Writer { return a.divert(r, path, line) })
	if err == nil {
		r.fields, err = wire.ParseFields(line)
	}
	if err == nil {
		r.Header, err = r.fields.Header()
	}
	if err == nil && a.ops[r.Operation] == nil {
		err = refuse(unix.ENOSYS, "operation: there is none named %.100q", r.Operation)
	}
	if err == nil && !c.work() {
		err = net.ErrClosed
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// longPrefix is how much of a request is looked at for the place of its content. A
// path has 4095 bytes, and JSON may make six of each; more is not worth a copy.
const longPrefix = 32 << 10

// divert chooses where a long string of a request goes. line is the request so
// far: with the operation and the path in it, content can go to the filesystem
// that it is for; a client may also send it first.
func (a *Agent) divert(r *request, path string, line []byte) io.Writer {
	switch path {
	case "content":
		if r.asked {
			return wire.Skip // occurs twice: ParseFields will say so, once
		}
		r.asked = true
		r.content = &spool{limit: a.limits.Content, memory: r.conn.memory, open: a.openSpool}
		if len(line) > longPrefix {
			return r.content
		}
		fields, err := wire.ParseFields(append(slices.Clone(line), `""}`...))
		if err != nil {
			return wire.Skip
		}
		header, err := fields.Header()
		if err == nil && header.Operation != wire.OpFileWrite {
			return wire.Skip
		}
		if name, err := fields.Path(); err == nil {
			r.target = openTarget(name)
			r.content.open = r.target.spool(a.openSpool)
		}
		return r.content
	case "stdin":
		if r.stdin != nil {
			return wire.Skip
		}
		r.stdin = &spool{limit: a.limits.Content, memory: r.conn.memory, open: a.openSpool}
		return r.stdin
	}
	return nil
}

// answer runs the operation of a request. A panic in it is an error for its
// client, not the end of the agent.
func (a *Agent) answer(r *request) (err error) {
	before := r.conn.written
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("a request handler panicked", "operation", r.Operation, "panic", p, "stack", string(debug.Stack()))
			err = refuse(unix.EIO, "%s: internal error: %v", r.Operation, p)
			if r.conn.written != before && r.stream == nil {
				err = replying(err)
			}
		}
	}()
	if a.isStopping() {
		return errShuttingDown
	}
	return a.ops[r.Operation](a, r)
}

func (a *Agent) ping(r *request) error {
	return replying(wire.WriteData(r.conn, struct {
		Pong bool `json:"pong"`
	}{true}))
}

// failed wraps the error of an operation on a file as the client will read it.
func failed(r *request, path string, err error) error {
	return fmt.Errorf("%s: %s: %w", r.Operation, path, err)
}

// withGone returns a context that ends when the client of r disappears.
func withGone(r *request) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	stop := r.conn.watch(cancel)
	return ctx, func() { stop(); cancel() }
}
