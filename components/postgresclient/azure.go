package postgresclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Azure are the metadata properties for servers of Azure Database for PostgreSQL that take Microsoft Entra ID tokens as
// passwords.
type Azure struct {
	UseAzureAD   bool   `name:"useAzureAD" help:"log in with tokens of Microsoft Entra ID"`
	TenantID     string `name:"azureTenantId" help:"tenant of the client"`
	ClientID     string `name:"azureClientId" help:"the client, or the user-assigned managed identity"`
	ClientSecret string `name:"azureClientSecret" secret:"true" help:"secret of the client; without it workload identity or the managed identity is used"`
	Certificate  string `name:"azureCertificate" secret:"true" help:"certificate of the client with its RSA key: PEM, or PKCS #12 in base64"`
	CertFile     string `name:"azureCertificateFile" help:"file with the certificate of the client and its RSA key, PEM or PKCS #12"`
	CertPassword string `name:"azureCertificatePassword" secret:"true" help:"password of the certificate, if it is PKCS #12"`
	Environment  string `name:"azureEnvironment" default:"AzurePublicCloud" allowed:"AzurePublicCloud,AzureChinaCloud,AzureUSGovernmentCloud" help:"the Azure cloud"`
}

// azureCloud are the addresses of an Azure cloud.
type azureCloud struct {
	// login is where clients get tokens, instance where managed identities do.
	login, instance string
	// resource is what a token is for.
	resource string
}

func (a Azure) cloud() azureCloud {
	const instance = "http://169.254.169.254/metadata/identity/oauth2/token"
	switch strings.ToLower(a.Environment) {
	case "azurechinacloud":
		return azureCloud{"https://login.chinacloudapi.cn", instance, "https://ossrdbms-aad.database.chinacloudapi.cn"}
	case "azureusgovernmentcloud":
		return azureCloud{"https://login.microsoftonline.us", instance, "https://ossrdbms-aad.database.usgovcloudapi.net"}
	default:
		return azureCloud{"https://login.microsoftonline.com", instance, "https://ossrdbms-aad.database.windows.net"}
	}
}

// tokens returns the function that fetches a token for each new connection: with a client secret, with a certificate, with the
// token of a Kubernetes workload, or as the machine's managed identity.
func (a Azure) tokens(env func(string) string) (func(context.Context) (string, error), error) {
	if a.ClientSecret != "" && (a.TenantID == "" || a.ClientID == "") {
		return nil, errors.New(`metadata property "azureClientSecret" needs "azureTenantId" and "azureClientId" as well`)
	}
	client, err := a.certificate()
	if err != nil {
		return nil, err
	}
	cloud := a.cloud()
	return func(ctx context.Context) (string, error) {
		req, err := a.request(ctx, cloud, client, env)
		if err != nil {
			return "", err
		}
		return fetchToken(req)
	}, nil
}

// jwtBearer says that an assertion is a JWT (RFC 7523).
const jwtBearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

func (a Azure) request(ctx context.Context, cloud azureCloud, certificate *azureCertificate, env func(string) string) (*http.Request, error) {
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {cloud.resource + "/.default"}}
	tenant, client := a.TenantID, a.ClientID
	address := func() string { return cloud.login + "/" + url.PathEscape(tenant) + "/oauth2/v2.0/token" }
	switch file := env("AZURE_FEDERATED_TOKEN_FILE"); {
	case a.ClientSecret != "":
		form.Set("client_secret", a.ClientSecret)
	case certificate != nil:
		assertion, err := certificate.assertion(client, address(), time.Now())
		if err != nil {
			return nil, err
		}
		form.Set("client_assertion_type", jwtBearer)
		form.Set("client_assertion", assertion)
	case file != "":
		assertion, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read the token of the workload (AZURE_FEDERATED_TOKEN_FILE): %w", err)
		}
		form.Set("client_assertion_type", jwtBearer)
		form.Set("client_assertion", string(assertion))
		if tenant == "" {
			tenant = env("AZURE_TENANT_ID")
		}
		if client == "" {
			client = env("AZURE_CLIENT_ID")
		}
	default:
		query := url.Values{"api-version": {"2018-02-01"}, "resource": {cloud.resource}}
		if client != "" {
			query.Set("client_id", client)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, cloud.instance+"?"+query.Encode(), nil)
		if err == nil {
			req.Header.Set("Metadata", "true")
		}
		return req, err
	}
	form.Set("client_id", client)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address(), strings.NewReader(form.Encode()))
	if err == nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return req, err
}

func fetchToken(req *http.Request) (string, error) {
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("cannot get a token of Microsoft Entra ID: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", fmt.Errorf("cannot get a token of Microsoft Entra ID: %w", err)
	}
	var reply struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(body, &reply); err != nil || reply.AccessToken == "" {
		return "", fmt.Errorf("%s gave no token of Microsoft Entra ID but status %d, error %q: %s; check azureTenantId, azureClientId and azureClientSecret, or that the machine has a managed identity",
			req.URL.Host, resp.StatusCode, reply.Error, reply.Description)
	}
	return reply.AccessToken, nil
}
