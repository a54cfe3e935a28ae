package virtual

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/goccid/goccid/ccid"
)

// readersJSON has one line for each interface of the readers that we know the descriptors of. Lines with the same name are
// interfaces of one device.
//
//go:embed readers.jsonl
var readersJSON []byte

// Model is a real reader, as far as a host can tell it from others.
type Model struct {
	// Name is a slug: lower-case letters, digits, hyphens. Aliases are other names that FindModel takes for it.
	Name    string
	Aliases []string
	// IDVendor, IDProduct and BCDDevice are those of the device descriptor.
	IDVendor, IDProduct, BCDDevice uint16
	// Manufacturer and Product are the device's strings, empty where it has none.
	Manufacturer, Product string
	// Interfaces are its CCID interfaces, one at least.
	Interfaces []ModelInterface
}

// ModelInterface is one CCID interface of a Model.
type ModelInterface struct {
	// Number, Class, SubClass and Protocol are those of the interface descriptor.
	Number, Class, SubClass, Protocol uint8
	// Endpoints is bNumEndpoints.
	Endpoints uint8
	// Descriptor has the bytes of the class descriptor.
	Descriptor []byte
	// ClockFrequencies (kHz) and DataRates (bit/s) are what the class requests answer.
	ClockFrequencies, DataRates []uint32
}

// ClassDescriptor decodes Descriptor.
func (m ModelInterface) ClassDescriptor() (*ccid.ClassDescriptor, error) {
	return ccid.ParseClassDescriptor(m.Descriptor)
}

// row is one line of readers.jsonl.
type row struct {
	Name                                string
	IDVendor, IDProduct, BCDDevice      uint16
	Manufacturer, Product               string
	BInterfaceNumber                    uint8
	BNumEndpoints                       uint8
	BInterfaceClass, BInterfaceSubClass uint8
	BInterfaceProtocol                  uint8
	Descriptor                          string
	ClockFrequencies, DataRates         []uint32
}

// loadModels decodes the embedded file once.
var loadModels = sync.OnceValues(func() ([]Model, error) {
	var models []Model
	base, devices := "", 0 // the name in the table, and how many devices have it
	lines := bufio.NewScanner(bytes.NewReader(readersJSON))
	for number := 1; lines.Scan(); number++ {
		var r row
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("virtual: readers.jsonl:%d: %w", number, err)
		}
		descriptor, err := hex.DecodeString(r.Descriptor)
		if err != nil {
			return nil, fmt.Errorf("virtual: readers.jsonl:%d: %w", number, err)
		}
		i := ModelInterface{
			Number: r.BInterfaceNumber, Class: r.BInterfaceClass, SubClass: r.BInterfaceSubClass, Protocol: r.BInterfaceProtocol,
			Endpoints: r.BNumEndpoints, Descriptor: descriptor, ClockFrequencies: r.ClockFrequencies, DataRates: r.DataRates,
		}
		name := r.Name
		if name != base {
			base, devices = name, 1
		} else {
			last := &models[len(models)-1]
			if !slices.ContainsFunc(last.Interfaces, func(other ModelInterface) bool { return other.Number == i.Number }) {
				last.Interfaces = append(last.Interfaces, i)
				continue
			}
			devices++ // another device that is called the same
			name = fmt.Sprintf("%s-%d", base, devices)
		}
		models = append(models, Model{
			Name: name, IDVendor: r.IDVendor, IDProduct: r.IDProduct, BCDDevice: r.BCDDevice,
			Manufacturer: r.Manufacturer, Product: r.Product, Interfaces: []ModelInterface{i},
		})
	}
	return models, lines.Err()
})

// Models lists the readers that can be had, in the order of their names.
func Models() ([]Model, error) {
	models, err := loadModels()
	if err != nil {
		return nil, err
	}
	models = slices.Clone(models)
	for i := range models {
		for alias, name := range aliases {
			if name == models[i].Name {
				models[i].Aliases = append(models[i].Aliases, alias)
			}
		}
		slices.Sort(models[i].Aliases)
	}
	slices.SortStableFunc(models, func(a, b Model) int { return strings.Compare(a.Name, b.Name) })
	return models, nil
}

// aliases are names that people use for readers which the table calls otherwise.
var aliases = map[string]string{
	"gemalto-pc-twin": "gempctwin", "gemalto-pc-twin-reader": "gempctwin", "pc-twin": "gempctwin",
	"yubikey": "yubico-yubikey-4-ccid", "yubikey-4": "yubico-yubikey-4-ccid", "scm-scr3310": "scr3310",
}

// FindModel finds a reader by its name, in any case, with any characters between its words; or by a part of a name that
// no other has. The error of a name that is not there says which ones are like it, and where there is a list of all.
func FindModel(name string) (*Model, error) {
	models, err := Models()
	if err != nil {
		return nil, err
	}
	wanted := slug(name)
	for i, m := range models {
		if m.Name == wanted || slices.Contains(m.Aliases, wanted) {
			return &models[i], nil
		}
	}
	like := modelsLike(wanted, models)
	if len(like) == 1 {
		return like[0], nil
	}
	return nil, unknownModel(name, wanted, like, models)
}

// modelsLike returns the models with wanted in their names; where there are none, those that have it but for the hyphens.
func modelsLike(wanted string, models []Model) []*Model {
	if wanted == "" {
		return nil
	}
	joined := strings.NewReplacer("-", "")
	for _, fits := range []func(string) bool{
		func(name string) bool { return strings.Contains(name, wanted) },
		func(name string) bool { return strings.Contains(joined.Replace(name), joined.Replace(wanted)) },
	} {
		var like []*Model
		for i := range models {
			if fits(models[i].Name) {
				like = append(like, &models[i])
			}
		}
		if len(like) > 0 {
			return like
		}
	}
	return nil
}

func unknownModel(name, wanted string, like []*Model, models []Model) error {
	const most = 8
	var names []string
	for _, m := range like[:min(most, len(like))] {
		names = append(names, m.Name)
	}
	if len(like) > most {
		return fmt.Errorf("reader %q: %d readers have that in their names, among them %s", name, len(like), strings.Join(names, ", "))
	}
	if len(like) > 1 {
		return fmt.Errorf("reader %q: which of %s?", name, strings.Join(names, ", "))
	}
	const all = "ccid-probe virtual --list-models has all names"
	if near := likeliest(wanted, models); near != "" {
		return fmt.Errorf("reader %q is not known: did you mean %s? (%s)", name, near, all)
	}
	return fmt.Errorf("reader %q is not known: %s", name, all)
}

// likeliest returns the name that wanted may be with a few slips of the finger, "" for none.
func likeliest(wanted string, models []Model) string {
	const lettersPerSlip = 4
	near, distance := "", len(wanted)/lettersPerSlip+1
	for _, m := range models {
		for _, name := range append([]string{m.Name}, m.Aliases...) {
			if d := editDistance(wanted, name); d < distance {
				near, distance = name, d
			}
		}
	}
	return near
}

// slug makes lower-case words joined by hyphens.
func slug(s string) string {
	words := strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	return strings.Join(words, "-")
}

// editDistance is the Levenshtein distance of the first 64 bytes.
func editDistance(a, b string) int {
	const most = 64
	a, b = a[:min(len(a), most)], b[:min(len(b), most)]
	line := make([]int, len(b)+1)
	for j := range line {
		line[j] = j
	}
	for i := range len(a) {
		diagonal := line[0]
		line[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = line[j+1]
			line[j+1] = min(cost, line[j]+1, line[j+1]+1)
		}
	}
	return line[len(b)]
}
