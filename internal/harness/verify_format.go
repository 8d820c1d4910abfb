package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
)

// plainFields makes the fields of sink.format: fields out of an entry in another
// format, read without any of walrill's own code. Fields in no other format are returned as they are.
func plainFields(names []string, fields map[string]string) (map[string]string, error) {
	switch {
	case len(names) == 1 && names[0] == "event":
		return unpackCloudEvent(fields["event"])
	case len(names) > 1 && names[0] == "key" && names[1] == "value":
		return unpackDebezium(fields)
	}
	return fields, nil
}

func unpackCloudEvent(text string) (map[string]string, error) {
	var attributes map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &attributes); err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for name, raw := range attributes {
		if name == "data" {
			fields[name] = string(raw)
			continue
		}
		var value string
		if err := json.Unmarshal(raw, &value); err != nil {
			return nil, fmt.Errorf("attribute %s is not text: %w", name, err)
		}
		fields[name] = value
	}
	if fields["specversion"] != "1.0" || fields["subject"] != fields["partitionkey"] || len(fields["sequence"]) != 20 {
		return nil, fmt.Errorf("the CloudEvent is not as promised: %s", text)
	}
	seq, err := strconv.ParseUint(fields["sequence"], 10, 64)
	fields["seq"], fields["key"] = strconv.FormatUint(seq, 10), fields["subject"]
	fields["schema"] = fields["dataschema"][strings.LastIndexByte(fields["dataschema"], '/')+1:]
	return fields, err
}

func unpackDebezium(entry map[string]string) (map[string]string, error) {
	var v struct {
		Before, After map[string]json.RawMessage
		Op            string
		Source        struct {
			Schema, Table string
			TxID          uint32 `json:"txId"`
		}
	}
	if err := json.Unmarshal([]byte(entry["value"]), &v); err != nil {
		return nil, err
	}
	fields := map[string]string{"type": entry["type"], "key": entry["ordering_key"], "seq": entry["seq"], "schema": entry["schema"], "unchanged": entry["unchanged"], "op": v.Op,
		"table": v.Source.Schema + "." + v.Source.Table, "tx": strconv.FormatUint(uint64(v.Source.TxID), 10)}
	row := v.After
	if v.Op == "d" {
		row, v.Before = v.Before, nil
	}
	if err := checkKey(entry["key"], row); err != nil {
		return nil, err
	}
	var unchanged []string
	if text := entry["unchanged"]; text != "" {
		if err := json.Unmarshal([]byte(text), &unchanged); err != nil {
			return nil, err
		}
	}
	for _, name := range unchanged {
		if string(row[name]) != `"__debezium_unavailable_value"` {
			return nil, fmt.Errorf("column %s was not sent and is %s", name, row[name])
		}
		delete(row, name)
	}
	maps.DeleteFunc(v.Before, func(name string, old json.RawMessage) bool {
		now, ok := row[name]
		return !ok || string(now) == string(old)
	})
	if row != nil {
		fields["data"] = object(row)
	}
	if len(v.Before) > 0 {
		fields["old"] = object(v.Before)
	}
	return fields, nil
}

// checkKey: the key's columns are the row's.
func checkKey(text string, row map[string]json.RawMessage) error {
	if text == "default" {
		if row != nil {
			return errors.New("a row without a key")
		}
		return nil
	}
	var key map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &key); err != nil {
		return err
	}
	for name, value := range key {
		if !reflect.DeepEqual(value, row[name]) {
			return fmt.Errorf("key column %s is %s in the key and %s in the row", name, value, row[name])
		}
	}
	return nil
}

func object(members map[string]json.RawMessage) string {
	var b strings.Builder
	for name, value := range members {
		quoted, _ := json.Marshal(name) // a string never fails
		fmt.Fprintf(&b, ",%s:%s", quoted, value)
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}"
}
