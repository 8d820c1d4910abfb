package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/walrill/walrill/config"
	"github.com/walrill/walrill/consumer"
	"github.com/walrill/walrill/keys"
)

func subjectKeys(cfg *config.Config) (*keys.Store, error) {
	return keys.New(cfg.Source.URL.Reveal(), cfg.MasterKey.Reveal())
}

func newForgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "forget SUBJECT",
		Short: "Destroy the key of a data subject: what was published encrypted for it cannot be read any more",
		Long: `Destroys the key of a data subject, such as customer/7, in the table walrill.subject_keys of the source database. What was published
encrypted for it can be read by nobody then, and what comes is not published any more. It cannot be undone.`,
		Args: exactArgs(1, "a subject, such as customer/7"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			if err := checkSubject(cfg, args[0]); err != nil {
				return usageError{err}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), askTimeout)
			defer cancel()
			store, err := subjectKeys(cfg)
			if err != nil {
				return err
			}
			defer store.Close(ctx)
			had, err := store.Forget(ctx, args[0])
			if err != nil {
				return redacted(cfg, err)
			}
			text := "its key is destroyed"
			if !had {
				text = "it had no key, and will get none"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], text)
			return err
		},
	}
}

// checkSubject refuses a subject that no table can have: a misspelt one would be forgotten and the right one not.
func checkSubject(cfg *config.Config, subject string) error {
	kind, value, _ := strings.Cut(subject, "/")
	var kinds []string
	for _, s := range cfg.Streams {
		for _, t := range s.AllTables() {
			if t.Encrypt == nil {
				continue
			}
			if t.Encrypt.Kind == kind && value != "" {
				return nil
			}
			kinds = append(kinds, t.Encrypt.Kind)
		}
	}
	if kinds == nil {
		return fmt.Errorf("forget: no table of the configuration has `encrypt`")
	}
	if near := config.Nearest(kind, kinds); near != "" && near != kind {
		return fmt.Errorf("forget: %s is no subject of the configuration; did you mean %s/%s?", subject, near, value)
	}
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	return fmt.Errorf("forget: %s is no subject of the configuration; its subjects are %s/…", subject, strings.Join(kinds, "/…, "))
}

func newDecryptCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "decrypt",
		Short: "Decrypt what was published encrypted, from standard input to standard output",
		Long: `Decrypts the values in lines of JSON that were published encrypted, with the keys of the subjects in the source database. What was forgotten
becomes [forgotten], and everything else stays as it is.`,
		Example: `  walrill tail customers --json | walrill decrypt`,
		Args:    exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			if cfg.MasterKey.Reveal() == "" {
				return usageError{errors.New("decrypt: the configuration has no `encryption: {master_key: \"${WALRILL_MASTER_KEY}\"}`, which opens the keys of the subjects")}
			}
			store, err := subjectKeys(cfg)
			if err != nil {
				return err
			}
			defer store.Close(cmd.Context())
			return redacted(cfg, decrypt(cmd, consumer.NewDecrypter(store.Find)))
		},
	}
}

// decrypt copies lines, each as soon as it is there.
func decrypt(cmd *cobra.Command, d *consumer.Decrypter) error {
	lines := bufio.NewScanner(cmd.InOrStdin())
	lines.Buffer(nil, 512<<20) // Redis's longest value
	for lines.Scan() {
		line, err := d.JSON(cmd.Context(), lines.Bytes())
		if err != nil {
			return err
		}
		if _, err := cmd.OutOrStdout().Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return lines.Err()
}
