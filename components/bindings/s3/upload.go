package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"outrigger.dev/components/bindings"
)

// upload is a file that is stored as an object.
type upload struct {
	*os.File
	size int64
}

func openUpload(path string) (*upload, error) {
	bad := func(why string) (*upload, error) {
		return nil, &bindings.ParameterError{Name: filePathParameter, Value: path, Remedy: why + "; give the path of a file on the sidecar's machine"}
	}
	// Looked at first, for opening a pipe would wait for its writer.
	info, err := os.Stat(path)
	if err != nil {
		return bad(err.Error())
	}
	if !info.Mode().IsRegular() {
		return bad("it is no file")
	}
	f, err := os.Open(path)
	if err != nil {
		return bad(err.Error())
	}
	if info, err = f.Stat(); err != nil {
		_ = f.Close()
		return bad(err.Error())
	}
	return &upload{f, info.Size()}, nil
}

// body makes the file, or the bytes whose base64 it holds, the body of the call. It is read twice, to sign it and to send it.
func (u *upload) body(ctx context.Context, c *call, decode bool) error {
	c.body = func() io.Reader {
		var r io.Reader = io.NewSectionReader(u, 0, u.size)
		if decode {
			r = base64.NewDecoder(base64.StdEncoding, r)
		}
		return r
	}
	sum := sha256.New()
	n, err := io.Copy(sum, &boundReader{ctx, c.body()})
	if err != nil {
		return fmt.Errorf("cannot read the file %s of metadata \"filePath\": %w", u.Name(), err)
	}
	if n > longestUpload {
		return fmt.Errorf("the file %s of metadata \"filePath\" has %d bytes, but S3 stores at most %d in one request; store it in parts", u.Name(), n, int64(longestUpload))
	}
	c.size, c.sum = n, hex.EncodeToString(sum.Sum(nil))
	return nil
}

// boundReader ends with its context.
type boundReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *boundReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
