//go:build linux

package agent

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// noise is n bytes that no two seeds have in common.
func noise(seed uint64, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), n)
}

// writeRandom streams a file_write of noise, and returns its checksum.
func writeRandom(t testing.TB, socket, path string, size int64) [32]byte {
	t.Helper()
	c := dial(t, socket)
	w := bufio.NewWriterSize(c, 256<<10)
	fmt.Fprintf(w, `{"operation":"file_write","path":%q,"content":"`, path)
	sum := sha256.New()
	enc := base64.NewEncoder(base64.StdEncoding, w)
	if _, err := io.Copy(io.MultiWriter(enc, sum), noise(7, size)); err != nil {
		t.Fatal(err)
	}
	_ = enc.Close()
	_, _ = w.WriteString("\"}\n")
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	line, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf(`{"success":true,"data":{"bytes_written":%d}}`+"\n", size); string(line) != want {
		t.Fatalf("%s", line)
	}
	return [32]byte(sum.Sum(nil))
}

// readBack streams a file_read.
func readBack(t testing.TB, socket, path string) (sum [32]byte, size int64) {
	t.Helper()
	c := dial(t, socket)
	fmt.Fprintf(c, `{"operation":"file_read","path":%q}`+"\n", path)
	r := bufio.NewReaderSize(c, 256<<10)
	const head = `{"success":true,"data":{"content":"`
	got := make([]byte, len(head))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != head {
		t.Fatalf("%q %v", got, err)
	}
	h := sha256.New()
	size, err := io.Copy(h, base64.NewDecoder(base64.StdEncoding, &quoted{r}))
	if err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if want := fmt.Sprintf(`,"size":%d}}`+"\n", size); err != nil || string(rest) != want {
		t.Fatalf("the reply ends in %q %v", rest, err)
	}
	return [32]byte(h.Sum(nil)), size
}

// quoted reads up to a quote.
type quoted struct{ r *bufio.Reader }

func (q *quoted) Read(p []byte) (int, error) {
	b, err := q.r.Peek(min(len(p), max(1, q.r.Buffered())))
	if len(b) == 0 {
		return 0, err
	}
	if i := strings.IndexByte(string(b), '"'); i == 0 {
		_, _ = q.r.Discard(1)
		return 0, io.EOF
	} else if i > 0 {
		b = b[:i]
	}
	n := copy(p, b)
	_, _ = q.r.Discard(n)
	return n, nil
}

func checksumFile(t testing.TB, path string) (sum [32]byte, size int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	size, err = io.Copy(h, f)
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil)), size
}
