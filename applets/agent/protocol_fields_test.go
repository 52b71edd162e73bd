//go:build linux

package agent

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestProtocolNamesAll holds PROTOCOL.md to the sources: each operation has a
// section with an example, which TestProtocolExamples runs, and each field that its
// parser reads is named there, or in a section that is linked from there.
func TestProtocolNamesAll(t *testing.T) {
	page, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	all := sections(string(page))
	for _, s := range all {
		if strings.Count("\n"+s.text, "\n```")%2 > 0 {
			t.Errorf("PROTOCOL.md: %s: a block has no end", s.heading)
		}
	}
	fields := fieldsRead(t)
	for op := range operations() {
		if strings.HasPrefix(op, "debug_") { // of a build for tests
			continue
		}
		for _, wrong := range missing(all, op, fields[op]) {
			t.Errorf("PROTOCOL.md: %s: %s", op, wrong)
		}
	}
	for op, want := range map[string][]string{
		"file_delete": {"path", "recursive"}, "listen": {"address", "network"}, "session_signal": {"session", "signal"},
	} {
		if !slices.Equal(fields[op], want) {
			t.Errorf("%s reads %q, were the fields found? want %q", op, fields[op], want)
		}
	}
}

// A section is a part of a page with its heading.
type section struct{ heading, text string }

func sections(page string) (all []section) {
	for _, part := range regexp.MustCompile(`(?m)^##+ `).Split(page, -1) {
		heading, text, _ := strings.Cut(part, "\n")
		all = append(all, section{heading, text})
	}
	return all
}

// anchor is what links to a heading say.
func (s section) anchor() string {
	return strings.ReplaceAll(regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(s.heading), ""), " ", "-")
}

// missing tells what a page does not say about an operation.
func missing(all []section, op string, fields []string) (wrong []string) {
	word := regexp.MustCompile(`\b` + op + `\b`)
	var text string
	for _, s := range all {
		if word.MatchString(s.heading) || strings.Contains(s.text, "- `"+op+"`:") {
			text += s.text
		}
	}
	if text == "" {
		return []string{"there is no section"}
	}
	if !strings.Contains(text, `> {"operation":"`+op+`"`) {
		wrong = append(wrong, "there is no example in its section")
	}
	for _, link := range regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(text, -1) {
		for _, s := range all {
			if s.anchor() == link[1] {
				text += s.text
			}
		}
	}
	for _, field := range fields {
		if !regexp.MustCompile("`\"?" + field + "\"?[`:]").MatchString(text) {
			wrong = append(wrong, "the field "+field+" is not named")
		}
	}
	return wrong
}

// fieldsRead returns, by operation, the names that its function has the parser read.
func fieldsRead(t *testing.T) map[string][]string {
	t.Helper()
	readers := fieldsOf(t, "../wire", "request*.go", "session.go")
	functions := functionsIn(t, ".", "*.go")
	read := map[string][]string{}
	ast.Inspect(functions["operations"], func(n ast.Node) bool {
		entry, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		value := entry.Value
		if call, ok := value.(*ast.CallExpr); ok { // streaming
			value = call.Args[0]
		}
		function := functions["Agent."+value.(*ast.SelectorExpr).Sel.Name]
		op := constants(t)[entry.Key.(*ast.SelectorExpr).Sel.Name]
		ast.Inspect(function, func(n ast.Node) bool {
			reader, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if of, ok := reader.X.(*ast.SelectorExpr); ok && of.Sel.Name == "fields" {
				read[op] = append(read[op], readers[reader.Sel.Name]...)
			}
			return true
		})
		slices.Sort(read[op])
		read[op] = slices.Compact(read[op])
		return true
	})
	return read
}

// constants returns the names of the operations by those of their constants.
func constants(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../wire/doc.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
				values[spec.Names[0].Name], _ = strconv.Unquote(literal.Value)
			}
		}
		return true
	})
	return values
}

// fieldsOf returns, by function, the names of the fields that it reads, itself or by
// way of others: the strings that it gives the methods of a fieldReader.
func fieldsOf(t *testing.T, dir string, patterns ...string) map[string][]string {
	t.Helper()
	functions := functionsIn(t, dir, patterns...)
	names := map[string][]string{}
	var find func(function string, depth int) []string
	find = func(function string, depth int) (found []string) {
		body := cmp.Or(functions["Fields."+function], functions["fieldReader."+function])
		if body == nil || depth > 3 {
			return nil
		}
		ast.Inspect(body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || method.Sel.Name == "fail" {
				return true
			}
			if of, ok := method.X.(*ast.Ident); !ok || of.Name != "r" && of.Name != "f" {
				return true
			}
			if len(call.Args) > 0 {
				if literal, ok := call.Args[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
					name, _ := strconv.Unquote(literal.Value)
					found = append(found, name)
				}
			}
			found = append(found, find(method.Sel.Name, depth+1)...)
			return true
		})
		return found
	}
	for function := range functions {
		if name, ok := strings.CutPrefix(function, "Fields."); ok {
			names[name] = find(name, 0)
		}
	}
	return names
}

// functionsIn returns the functions of a package's sources by name, methods behind
// the name of their type.
func functionsIn(t *testing.T, dir string, patterns ...string) map[string]*ast.FuncDecl {
	t.Helper()
	functions := map[string]*ast.FuncDecl{}
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, name := range files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				of := ""
				if f.Recv != nil {
					of = types.ExprString(f.Recv.List[0].Type) + "."
				}
				functions[strings.TrimPrefix(of, "*")+f.Name.Name] = f
			}
		}
	}
	return functions
}

// TestProtocolNamesAllIsHeld: each way in which the page can be wrong is noticed.
func TestProtocolNamesAllIsHeld(t *testing.T) {
	const whole = "## Operations\n### one, two\n`path`, and `\"deep\":true`. See [three](#three-four).\n> {\"operation\":\"two\"}\n### three, four\n`linked`\n"
	fields := []string{"path", "deep", "linked"}
	if wrong := missing(sections(whole), "two", fields); len(wrong) > 0 {
		t.Error(wrong)
	}
	for name, page := range map[string]string{
		"no section": strings.Replace(whole, "one, two", "one", 1),
		"no example": strings.Replace(whole, "> {", "{", 1),
		"a field":    strings.Replace(whole, "`path`", "path", 1),
		"another":    strings.Replace(whole, "`\"deep\":true`", "deep", 1),
		"no link":    strings.Replace(whole, "#three", "#3", 1),
	} {
		if wrong := missing(sections(page), "two", fields); len(wrong) != 1 {
			t.Errorf("%s: %q", name, wrong)
		}
	}
}
