package mapfile

import (
	"os"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
)

// Upcaster makes an Upcaster of the `upcast` rules in a configuration file, as `walrill tail --upcast` does. It needs nothing of the
// environment but what the mapping itself names, and no server.
//
//	up, err := mapfile.Upcaster("walrill.yaml")
//	…
//	e, err := reader.Next(ctx)
//	…
//	if err := up.Event(&e); err != nil { // *consumer.VersionError or *consumer.UpcastError
//
// The error is config.Errors for a file that is wrong, each with its place.
func Upcaster(path string) (*consumer.Upcaster, error) {
	cfg, err := config.LoadMapping(path, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	return UpcasterOf(cfg)
}

// UpcasterOf is Upcaster with the configuration in hand.
func UpcasterOf(cfg *config.Config) (*consumer.Upcaster, error) {
	m := Mapping(cfg)
	list, err := m.Upcasts()
	if err != nil {
		return nil, err
	}
	return consumer.NewUpcaster(list), nil
}
