//go:build linux

package vsockclient

import (
	"strconv"
	"strings"
)

// A screen is as much of a terminal as vim and a shell draw on: what a test sees.
type screen struct {
	rows, cols  int
	cells       [][]rune
	row, col    int
	top, bottom int // of the region that scrolls
	alternate   bool
	main        [][]rune // what is behind the alternate screen
	escape      []byte   // a sequence that is not complete
}

func newScreen(rows, cols int) *screen {
	s := &screen{}
	s.resize(rows, cols)
	return s
}

func (s *screen) resize(rows, cols int) {
	old := s.cells
	s.rows, s.cols, s.top, s.bottom = rows, cols, 0, rows-1
	s.cells = blank(rows, cols)
	for i := range min(len(old), rows) {
		copy(s.cells[i], old[i])
	}
	s.row, s.col = min(s.row, rows-1), min(s.col, cols-1)
}

func blank(rows, cols int) [][]rune {
	cells := make([][]rune, rows)
	for i := range cells {
		cells[i] = []rune(strings.Repeat(" ", cols))
	}
	return cells
}

// line is the text of one line, from the top if n is not negative, else from the
// bottom.
func (s *screen) line(n int) string {
	if n < 0 {
		n += s.rows
	}
	return strings.TrimRight(string(s.cells[n]), " ")
}

func (s *screen) String() string {
	var lines []string
	for i := range s.rows {
		lines = append(lines, s.line(i))
	}
	return strings.Join(lines, "\n")
}

func (s *screen) Write(p []byte) (int, error) {
	for _, b := range p {
		if len(s.escape) > 0 {
			s.escape = append(s.escape, b)
			if s.complete() {
				s.escape = nil
			}
			continue
		}
		switch {
		case b == 0x1B:
			s.escape = []byte{b}
		case b == '\r':
			s.col = 0
		case b == '\n':
			s.down()
		case b == '\b':
			s.col = max(s.col-1, 0)
		case b >= ' ' && b < 0x7F:
			if s.col == s.cols {
				s.col = 0
				s.down()
			}
			s.cells[s.row][s.col] = rune(b)
			s.col++
		}
	}
	return len(p), nil
}

func (s *screen) down() {
	if s.row == s.bottom {
		s.scroll(s.top, 1)
	} else {
		s.row = min(s.row+1, s.rows-1)
	}
}

// scroll moves the lines from one on up by n, or down if n is negative.
func (s *screen) scroll(from, n int) {
	region := s.cells[from : s.bottom+1]
	for ; n > 0; n-- {
		copy(region, region[1:])
		region[len(region)-1] = []rune(strings.Repeat(" ", s.cols))
	}
	for ; n < 0; n++ {
		copy(region[1:], region)
		region[0] = []rune(strings.Repeat(" ", s.cols))
	}
}

// complete acts on an escape sequence if all of it is there.
func (s *screen) complete() bool {
	e := s.escape
	last := e[len(e)-1]
	switch e[1] {
	case '[':
		if len(e) > 2 && last >= 0x40 && last <= 0x7E {
			s.control(string(e[2:len(e)-1]), last)
			return true
		}
		return false
	case ']', 'P', '_', '^', 'X': // up to BEL or ESC \
		return last == 7 || len(e) > 3 && last == '\\' && e[len(e)-2] == 0x1B
	case '(', ')', '#', '%', '*', '+', ' ':
		return len(e) == 3
	case 'M':
		if s.row == s.top {
			s.scroll(s.top, -1)
		} else {
			s.row--
		}
	}
	return true
}

func (s *screen) control(parameters string, final byte) {
	if strings.HasPrefix(parameters, "?") {
		s.mode(parameters[1:], final == 'h')
		return
	}
	var n []int
	for word := range strings.SplitSeq(parameters, ";") {
		v, _ := strconv.Atoi(word)
		n = append(n, v)
	}
	n = append(n, 0)
	count := max(n[0], 1)
	switch final {
	case 'A':
		s.row = max(s.row-count, 0)
	case 'B':
		s.row = min(s.row+count, s.rows-1)
	case 'C':
		s.col = min(s.col+count, s.cols-1)
	case 'D':
		s.col = max(s.col-count, 0)
	case 'G':
		s.col = min(count-1, s.cols-1)
	case 'd':
		s.row = min(count-1, s.rows-1)
	case 'H', 'f':
		s.row, s.col = min(count, s.rows)-1, min(max(n[1], 1), s.cols)-1
	case 'J':
		s.erase(n[0])
	case 'K':
		s.eraseLine(n[0])
	case 'L':
		s.scroll(s.row, -count)
	case 'M':
		s.scroll(s.row, count)
	case 'r':
		s.top, s.bottom, s.row, s.col = count-1, s.rows-1, 0, 0
		if n[1] > 0 && n[1] <= s.rows {
			s.bottom = n[1] - 1
		}
	}
}

func (s *screen) mode(which string, on bool) {
	if !strings.Contains(which, "1049") && which != "47" || on == s.alternate {
		return
	}
	s.alternate = on
	if on {
		s.main, s.cells = s.cells, blank(s.rows, s.cols)
	} else {
		s.cells = s.main
		s.resize(s.rows, s.cols)
	}
}

func (s *screen) erase(what int) {
	for i := range s.rows {
		if what == 2 || what == 0 && i > s.row || what == 1 && i < s.row {
			s.cells[i] = []rune(strings.Repeat(" ", s.cols))
		}
	}
	if what < 2 {
		s.eraseLine(what)
	}
}

func (s *screen) eraseLine(what int) {
	for i := range s.cols {
		if what == 2 || what == 0 && i >= s.col || what == 1 && i <= s.col {
			s.cells[s.row][i] = ' '
		}
	}
}
