package main

import (
	"context"
	"errors"

	"github.com/goccid/goccid/virtual"
)

// virtualName is the name of a virtual.Bus.
const virtualName = "virtual"

// virtualReaders are the readers that --virtual asks for, on a bus of their own.
type virtualReaders struct {
	bus      *virtual.Bus
	stations []*virtual.Station
	// names are those of the models as they were given.
	names []string
}

// plugVirtual makes the readers and plugs them in, in the order of the flags.
func (p *program) plugVirtual(ctx context.Context) (*virtualReaders, error) {
	v := &virtualReaders{bus: virtual.NewBus()}
	for _, text := range p.opts.virtual {
		if err := p.plug(ctx, v, text); err != nil {
			return nil, errors.Join(err, v.Close())
		}
	}
	return v, nil
}

func (p *program) plug(ctx context.Context, v *virtualReaders, text string) error {
	spec, err := virtual.ParseSpec(text)
	if err != nil {
		return usage("As in: --virtual reader=gemalto-pc-twin,level=tpdu,slots=1,card=t1", "--virtual %s: %w", text, err)
	}
	return p.step(ctx, func(ctx context.Context) error {
		station, err := spec.Start(ctx)
		if err != nil {
			return err
		}
		v.stations, v.names = append(v.stations, station), append(v.names, spec.Name())
		_, err = v.bus.Plug(station)
		return err
	})
}

// reportViolations logs where our own driver broke a rule of CCID: the virtual readers watch it.
func (p *program) reportViolations(v *virtualReaders) {
	for _, station := range v.stations {
		for _, violation := range station.Violations() {
			p.log.Warnf("virtual reader: goccid broke a rule, please report it: %v", violation)
		}
	}
}

// Close unplugs the readers and ends their cards.
func (v *virtualReaders) Close() error {
	errs := []error{v.bus.Close()}
	for _, station := range v.stations {
		errs = append(errs, station.Close())
	}
	return errors.Join(errs...)
}
