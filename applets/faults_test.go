package applets

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// knownFaults is how many the C implementation had.
const knownFaults = 29

// TestFaultsTable holds FAULTS.md to the sources: each test that it names is
// there, each row names one, and each known fault has its row.
func TestFaultsTable(t *testing.T) {
	page, err := os.ReadFile("FAULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range complaints(string(page), testFunctions(t)) {
		t.Error("FAULTS.md:", wrong)
	}
}

// TestSecurityNamesTests: each test that SECURITY.md names is there.
func TestSecurityNamesTests(t *testing.T) {
	page, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	functions := testFunctions(t)
	names := regexp.MustCompile("`([a-z-]+\\.(?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(page, -1)
	for _, name := range names {
		if !functions[string(name[1])] {
			t.Errorf("SECURITY.md: %s: there is no such test", name[1])
		}
	}
	if len(names) < 10 {
		t.Errorf("SECURITY.md: only %d tests were found in it", len(names))
	}
}

// complaints tells what is wrong with the page. A row's last cell has its tests.
func complaints(page string, functions map[string]bool) (wrong []string) {
	name := regexp.MustCompile("`([^`]*)`")
	isTest := regexp.MustCompile(`^[a-z-]+\.(Test|Fuzz|Benchmark)[A-Za-z0-9]+$`)
	seen := map[int]bool{}
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasSuffix(strings.TrimSpace(line), "| tests |") {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimPrefix(cells[0], "| ")); err == nil {
			if seen[n] || n < 1 || n > knownFaults {
				wrong = append(wrong, "fault "+strconv.Itoa(n)+" twice, or unknown")
			}
			seen[n] = true
		}
		tests := name.FindAllStringSubmatch(cells[len(cells)-1], -1)
		rest := name.ReplaceAllString(strings.TrimSuffix(cells[len(cells)-1], "|"), "")
		if len(cells) < 3 || len(tests) == 0 || strings.TrimSpace(rest) != "" {
			wrong = append(wrong, "a row without tests: "+line)
		}
		for _, test := range tests {
			if !isTest.MatchString(test[1]) || !functions[test[1]] {
				wrong = append(wrong, test[1]+": there is no such test")
			}
		}
	}
	for n := range knownFaults {
		if !seen[n+1] {
			wrong = append(wrong, "fault "+strconv.Itoa(n+1)+" is missing")
		}
	}
	return wrong
}

// testFunctions returns the tests of this module, as package.Function; a package
// goes by its directory.
func testFunctions(t *testing.T) map[string]bool {
	t.Helper()
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(\w+ \*?testing\.(?:T|F|B|TB)\)`)
	found := map[string]bool{}
	for _, top := range []string{"../applets", "../cmd", "../rootfs-skel"} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			source, err := os.ReadFile(path)
			for _, m := range function.FindAllSubmatch(source, -1) {
				found[filepath.Base(filepath.Dir(path))+"."+string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// TestFaultsTableIsHeld: each way in which the page can be wrong is noticed.
func TestFaultsTableIsHeld(t *testing.T) {
	functions := map[string]bool{"agent.TestThere": true, "hf-vm.TestVM": true}
	var whole strings.Builder
	whole.WriteString("| | wrong | right | tests |\n|---|---|---|---|\n")
	for n := range knownFaults {
		whole.WriteString("| " + strconv.Itoa(n+1) + " | `x` | y | `agent.TestThere` `hf-vm.TestVM` |\n")
	}
	if wrong := complaints(whole.String(), functions); len(wrong) > 0 {
		t.Error(wrong)
	}
	for name, page := range map[string]string{
		"a test that is not there": whole.String() + "| a | b | `agent.TestGone` |\n",
		"no test":                  whole.String() + "| a | b | |\n",
		"only words":               whole.String() + "| a | b | to be done |\n",
		"words beside a test":      whole.String() + "| a | b | `agent.TestThere`, some day |\n",
		"not a test":               whole.String() + "| a | b | `agent` |\n",
		"a fault twice":            whole.String() + "| 29 | a | b | `agent.TestThere` |\n",
		"an unknown fault":         whole.String() + "| 30 | a | b | `agent.TestThere` |\n",
		"a fault is missing":       strings.Replace(whole.String(), "| 7 |", "| x |", 1),
	} {
		if wrong := complaints(page, functions); len(wrong) != 1 {
			t.Errorf("%s: %q", name, wrong)
		}
	}
}
