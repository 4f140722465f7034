package sigv4

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// canonical writes r down in the one way both ends agree on. (IAM User Guide,
// "Create a signed AWS API request".)
//
// The path is encoded once more than it arrived, which is what every service
// but S3 wants: an agent's "/v1/data-channel/ecs:x" is signed as "ecs%3Ax".
func (c *Claim) canonical(r *http.Request, body Hash) (string, error) {
	query, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(r.Method)
	b.WriteByte('\n')
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	escape(&b, path, true)
	b.WriteByte('\n')
	query.write(&b, c.Presigned)
	b.WriteByte('\n')
	for _, name := range c.headers {
		b.WriteString(name)
		b.WriteByte(':')
		writeHeader(&b, r, name)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.WriteString(strings.Join(c.headers, ";"))
	b.WriteByte('\n')
	b.WriteString(hex.EncodeToString(body[:]))
	return b.String(), nil
}

// writeHeader writes the values of a header, trimmed, inner spaces collapsed.
// net/http keeps two of the headers elsewhere.
func writeHeader(b *strings.Builder, r *http.Request, name string) {
	switch name {
	case "host":
		b.WriteString(cmp.Or(r.Host, r.URL.Host))
		return
	case "content-length":
		b.WriteString(strconv.FormatInt(r.ContentLength, 10))
		return
	case "transfer-encoding":
		b.WriteString(strings.Join(r.TransferEncoding, ","))
		return
	}
	for i, v := range r.Header.Values(name) {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, word := range strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' }) {
			if j > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(word)
		}
	}
}

// A query is a query string's pairs, decoded.
type query []struct{ key, value string }

// parseQuery is stricter than url.ParseQuery and keeps nothing back: what it
// cannot read, a signature cannot cover.
func parseQuery(raw string) (q query, err error) {
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		if key, err = url.QueryUnescape(key); err == nil {
			value, err = url.QueryUnescape(value)
		}
		if err != nil || strings.Contains(pair, ";") {
			return nil, sallyport.Errorf(sallyport.IncompleteSignatureException, "The query string of the request is malformed.")
		}
		q = append(q, struct{ key, value string }{key, value})
	}
	return q, nil
}

func (q query) get(key string) string {
	for _, p := range q {
		if p.key == key {
			return p.value
		}
	}
	return ""
}

// write writes the pairs in order, escaped. The signature of a presigned
// request is no part of what it signs.
func (q query) write(b *strings.Builder, presigned bool) {
	pairs := make([]string, 0, len(q))
	for _, p := range q {
		if presigned && p.key == "X-Amz-Signature" {
			continue
		}
		var e strings.Builder
		escape(&e, p.key, false)
		e.WriteByte('=')
		escape(&e, p.value, false)
		pairs = append(pairs, e.String())
	}
	// "=" sorts after "-" and digits, so pairs are compared key first.
	slices.SortFunc(pairs, func(x, y string) int {
		xk, xv, _ := strings.Cut(x, "=")
		yk, yv, _ := strings.Cut(y, "=")
		return cmp.Or(strings.Compare(xk, yk), strings.Compare(xv, yv))
	})
	b.WriteString(strings.Join(pairs, "&"))
}

// escape is RFC 3986's, with upper-case hex, as AWS's UriEncode.
func escape(b *strings.Builder, s string, keepSlash bool) {
	const hexDigits = "0123456789ABCDEF"
	for i := range len(s) {
		switch ch := s[i]; {
		case 'A' <= ch && ch <= 'Z' || 'a' <= ch && ch <= 'z' || '0' <= ch && ch <= '9',
			ch == '-', ch == '.', ch == '_', ch == '~', ch == '/' && keepSlash:
			b.WriteByte(ch)
		default:
			b.Write([]byte{'%', hexDigits[ch>>4], hexDigits[ch&15]})
		}
	}
}

func scope(at time.Time, region, service string) string {
	return at.UTC().Format("20060102") + "/" + region + "/" + service + "/" + terminator
}

func stringToSign(at time.Time, region, service, canonical string) string {
	digest := sha256.Sum256([]byte(canonical))
	return algorithm + "\n" + at.UTC().Format(timeFormat) + "\n" + scope(at, region, service) + "\n" + hex.EncodeToString(digest[:])
}

func signingKey(secret sallyport.Secret, at time.Time, region, service string) []byte {
	key := mac([]byte("AWS4"+secret.Reveal()), at.UTC().Format("20060102"))
	return mac(mac(mac(key, region), service), terminator)
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}
