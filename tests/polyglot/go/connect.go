// Opens the channel: mutual TLS, every replica, retries of what may be repeated.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// docs: connect

//go:embed service-config.json
var serviceConfig string

// connect opens a channel to every replica that the address NAME:PORT resolves to.
func connect(address, authority, certificate, key string) (*grpc.ClientConn, error) {
	own, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + authority)
	}
	return grpc.NewClient("dns:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{own},
			RootCAs:      roots,
			MinVersion:   tls.VersionTLS12,
		})),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Finds a dead connection under a stream that has become silent.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
	)
}

// docs: end

// docs: errors
// reasonOf returns why a call failed: a name of ErrorReason without its prefix, such as
// "CREDENTIALS_INVALID", or "" if the answer is not the service's own.
func reasonOf(err error) string { return infoOf(err).GetReason() }

func infoOf(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "authsvc" {
			return info
		}
	}
	return nil
}

// repeated calls again while the service refuses before anything is done, as replicas that stop do.
// So it may be used for any call.
func repeated[Answer any](ctx context.Context, call func() (Answer, error)) (Answer, error) {
	for pause := 100 * time.Millisecond; ; pause *= 2 {
		answer, err := call()
		if infoOf(err).GetMetadata()["effect"] != "none" || pause > 400*time.Millisecond {
			return answer, err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return answer, err
		}
	}
}

// docs: end
