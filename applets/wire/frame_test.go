package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// frame is one by its bytes, as PROTOCOL.md has it.
func frame(k Kind, payload string) string {
	length := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	return string(k) + string(length) + payload
}

// readFrames reads frames to the end of src.
func readFrames(src io.Reader) (frames []string, err error) {
	r := NewFrameReader(src)
	for {
		k, n, err := r.Next()
		if err != nil {
			return frames, err
		}
		p, err := io.ReadAll(r)
		if err != nil {
			return frames, err
		}
		if len(p) != n {
			return frames, errors.New("the length is not the payload's")
		}
		frames = append(frames, frame(k, string(p)))
	}
}

func TestFrames(t *testing.T) {
	big := strings.Repeat("x", MaxPayload)
	for _, row := range []struct {
		name, in string
		frames   int
		err      error // nil is a *FrameError
	}{
		{"nothing", "", 0, io.EOF},
		{"two", frame(KindStdin, "a") + frame(KindEnd, ""), 2, io.EOF},
		{"the largest", frame(KindData, big) + frame(KindData, big), 2, io.EOF},
		{"empty data", frame(KindData, ""), 1, io.EOF},
		{"keep-alives are passed over", frame(KindKeepAlive, "") + frame(KindStdout, "a") + frame(KindKeepAlive, ""), 1, io.EOF},
		{"cut in the header", frame(KindStdin, "a") + "\x01\x00", 1, io.ErrUnexpectedEOF},
		{"cut behind the header", frame(KindStdin, "abc")[:5], 0, io.ErrUnexpectedEOF},
		{"cut in the payload", frame(KindStdin, "abc")[:7], 0, io.ErrUnexpectedEOF},
		{"unknown kind", frame(KindStdin, "a") + frame(lastKind+1, "b"), 1, nil},
		{"too long", string(KindData) + "\x00\x10\x00\x01", 0, nil},
		{"longest length", string(KindData) + "\xff\xff\xff\xff", 0, nil},
		{"an end that holds something", frame(KindEnd, "a"), 0, nil},
		{"a keep-alive that holds something", frame(KindKeepAlive, "a"), 0, nil},
	} {
		for how, src := range map[string]io.Reader{"at once": strings.NewReader(row.in), "byte by byte": iotest.OneByteReader(strings.NewReader(row.in))} {
			if how == "byte by byte" && len(row.in) > MaxPayload {
				continue
			}
			frames, err := readFrames(src)
			if row.err == nil && !errors.As(err, new(*FrameError)) || row.err != nil && err != row.err || len(frames) != row.frames {
				t.Errorf("%s, %s: %d frames, %v", row.name, how, len(frames), err)
			}
		}
	}
}

// Next passes over what is left of a payload.
func TestFrameLeftUnread(t *testing.T) {
	in := frame(KindStdin, strings.Repeat("a", 100<<10)) + frame(KindSignal, `{"signal":15}`)
	r := NewFrameReader(strings.NewReader(in))
	if _, n, err := r.Next(); n != 100<<10 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	var s Signal
	if k, _, err := r.Next(); k != KindSignal || err != nil || r.Decode(&s) != nil || s.Signal != 15 {
		t.Error(k, err, s)
	}
}

func TestFrameDecode(t *testing.T) {
	for _, row := range []struct {
		payload string
		ok      bool
	}{
		{`{"signal":9}`, true},
		{`{"signal":"9"}`, false},
		{``, false},
		{`{"signal":9`, false},
		{`{"signal":9}` + strings.Repeat(" ", MaxControl), false},
	} {
		r := NewFrameReader(strings.NewReader(frame(KindSignal, row.payload)))
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		var s Signal
		err := r.Decode(&s)
		if ok := err == nil && s.Signal == 9; ok != row.ok || !ok && !errors.As(err, new(*FrameError)) {
			t.Errorf("%.40q: %v", row.payload, err)
		}
	}
}

func TestFrameWriter(t *testing.T) {
	var b bytes.Buffer
	w := NewFrameWriter(&b)
	f := NewFrame(10)
	n := copy(f.Payload(), "out")
	content := strings.Repeat("c", 300)
	for _, err := range []error{
		w.WriteFrame(KindStdout, f, n),
		w.Empty(KindEnd),
		w.Encode(KindExit, Signal{3}),
		w.Send(KindData, len(content), func() error { _, err := b.WriteString(content); return err }),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := frame(KindStdout, "out") + frame(KindEnd, "") + frame(KindExit, `{"signal":3}`) + frame(KindData, content)
	if b.String() != want {
		t.Errorf("%q", b.String())
	}
	if err := w.Encode(KindExit, strings.Repeat("x", MaxControl)); !errors.As(err, new(*FrameError)) {
		t.Error(err)
	}
}

// FuzzFrames: whatever is read as frames is what was sent, however it comes.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame(KindStdin, "a") + frame(KindEnd, "")))
	f.Add([]byte(frame(KindKeepAlive, "") + frame(KindResize, `{"rows":24,"cols":80}`)))
	f.Add([]byte(frame(KindData, "abc")[:6]))
	f.Add([]byte("\x04\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		frames, err := readFrames(bytes.NewReader(in))
		slow, slowErr := readFrames(iotest.OneByteReader(bytes.NewReader(in)))
		if strings.Join(frames, "|") != strings.Join(slow, "|") || (err == io.EOF) != (slowErr == io.EOF) {
			t.Fatalf("%q %v at once, %q %v byte by byte", frames, err, slow, slowErr)
		}
		if err == nil {
			t.Fatal("no end")
		}
		// Without the frames that say nothing, what was read is a part of the input.
		rest := string(in)
		for _, one := range frames {
			_, after, ok := strings.Cut(rest, one)
			if !ok {
				t.Fatalf("%q is not in %q", one, in)
			}
			rest = after
		}
	})
}
