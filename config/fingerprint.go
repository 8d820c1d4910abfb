package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"reflect"
	"slices"
	"strings"
)

// Fingerprint tells whether two configurations, or parts of them, say the same, wherever in their file they
// say it. Descriptions, owners, compatibility, upcasts and what becomes of consumed rows are not looked at: they change no entry. Fields with their zero value do not count, so that a field which a later version adds changes no fingerprint. It is
// 32 hexadecimal digits and shows nothing of what it was made of.
func Fingerprint(v any) string {
	h := sha256.New()
	fingerprint(h, reflect.ValueOf(v))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func fingerprint(h hash.Hash, v reflect.Value) {
	if unseen(v.Type()) {
		return
	}
	switch v.Type() {
	case reflect.TypeFor[URL]():
		url, _ := v.Interface().(URL)
		fmt.Fprintf(h, "%q", url.Reveal())
		return
	case reflect.TypeFor[Secret]():
		secret, _ := v.Interface().(Secret)
		fmt.Fprintf(h, "%q", secret.Reveal())
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() && !unseen(f.Type()) {
				fmt.Fprintf(h, "%s:", v.Type().Field(i).Name)
				fingerprint(h, f)
			}
		}
		fmt.Fprint(h, ";")
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			fingerprint(h, v.Index(i))
		}
		fmt.Fprint(h, "]")
	case reflect.Map: // of strings
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			fmt.Fprintf(h, "%q:", k.String())
			fingerprint(h, v.MapIndex(k))
		}
		fmt.Fprint(h, "}")
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			fingerprint(h, v.Elem())
		}
	default:
		fmt.Fprintf(h, "%q,", fmt.Sprint(v))
	}
}

// unseen are the types that have no part in what is published.
func unseen(t reflect.Type) bool {
	return t == reflect.TypeFor[Pos]() || t == reflect.TypeFor[About]() || t == reflect.TypeFor[Compatibility]() || t == reflect.TypeFor[Upcasts]() ||
		t == reflect.TypeFor[DeleteConsumed]()
}
