package transform

import "bytes"

// appendTimestamp puts the T of ISO 8601 between date and time:
// "2020-01-01T00:00:00.5", "0044-03-15T12:00:00 BC". Infinities have no time and stay.
func appendTimestamp(dst, text []byte) ([]byte, error) {
	dst = append(dst, '"')
	dst = appendWithT(dst, text)
	return append(dst, '"'), nil
}

// appendTimestampTZ also gives the zone, which Postgres prints as +00, its
// minutes: "2020-01-01T00:00:00+00:00", "0044-03-15T12:00:00+00:00 BC".
func appendTimestampTZ(dst, text []byte) ([]byte, error) {
	start := len(dst) + 1
	dst = append(dst, '"')
	dst = appendWithT(dst, text)
	era := bytes.HasSuffix(text, []byte(" BC"))
	if era {
		dst = dst[:len(dst)-len(" BC")]
	}
	if n := len(dst) - start; n >= 3 && (dst[start+n-3] == '+' || dst[start+n-3] == '-') {
		dst = append(dst, ":00"...)
	}
	if era {
		dst = append(dst, " BC"...)
	}
	return append(dst, '"'), nil
}

// appendWithT appends the text with its first space made a T. Digits and
// punctuation, nothing to escape.
func appendWithT(dst, text []byte) []byte {
	start := len(dst)
	dst = append(dst, text...)
	if i := bytes.IndexByte(text, ' '); i >= 0 {
		dst[start+i] = 'T'
	}
	return dst
}
