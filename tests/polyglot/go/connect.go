// Opens the channel: mutual TLS, every replica, retries of what may be repeated.
package main

import (
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"errors"
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
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "authsvc" {
			return info.Reason
		}
	}
	return ""
}

// docs: end
