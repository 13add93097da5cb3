package kubernetes

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// find chooses the cluster: that of the file given, else the one that this pod is in, else that of the usual kubeconfig files.
func find(path string, env Environment) (cluster, error) {
	if path != "" {
		return fromKubeconfig(path)
	}
	host, _ := env.Lookup("KUBERNETES_SERVICE_HOST")
	port, _ := env.Lookup("KUBERNETES_SERVICE_PORT")
	if host != "" && port != "" {
		return fromServiceAccount(host, port, env.ServiceAccount), nil
	}
	list, _ := env.Lookup("KUBECONFIG")
	candidates := filepath.SplitList(list)
	if home, _ := env.Lookup("HOME"); home != "" {
		candidates = append(candidates, filepath.Join(home, ".kube", "config"))
	}
	for _, candidate := range candidates {
		if _, err := os.Stat(candidate); candidate != "" && err == nil {
			return fromKubeconfig(candidate)
		}
	}
	return cluster{}, errors.New("there is no Kubernetes cluster to read Secrets from: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set, as they are in a pod, and there is no kubeconfig file; set the metadata kubeconfigPath")
}

// fromServiceAccount is the cluster that this pod is in. Its files are read when they are needed, so that a pod without a service
// account is told of it by what it asks for, and not refused.
func fromServiceAccount(host, port, folder string) cluster {
	c := cluster{server: "https://" + net.JoinHostPort(host, port), tokenFile: filepath.Join(folder, "token"), caFile: filepath.Join(folder, "ca.crt")}
	if text, err := os.ReadFile(filepath.Join(folder, "namespace")); err == nil {
		c.namespace = strings.TrimSpace(string(text))
	}
	return c
}

// kubeconfig is what is used of such a file. Names are those of the file format.
type kubeconfig struct {
	CurrentContext string `yaml:"current-context"`
	Contexts       []struct {
		Name    string `yaml:"name"`
		Context struct {
			Cluster   string `yaml:"cluster"`
			User      string `yaml:"user"`
			Namespace string `yaml:"namespace"`
		} `yaml:"context"`
	} `yaml:"contexts"`
	Clusters []struct {
		Name    string `yaml:"name"`
		Cluster struct {
			Server     string `yaml:"server"`
			ServerName string `yaml:"tls-server-name"`
			Insecure   bool   `yaml:"insecure-skip-tls-verify"`
			CAFile     string `yaml:"certificate-authority"`
			CAData     string `yaml:"certificate-authority-data"`
			Proxy      string `yaml:"proxy-url"`
		} `yaml:"cluster"`
	} `yaml:"clusters"`
	Users []struct {
		Name string         `yaml:"name"`
		User kubeconfigUser `yaml:"user"`
	} `yaml:"users"`
}

type kubeconfigUser struct {
	Token           string         `yaml:"token"`
	TokenFile       string         `yaml:"tokenFile"`
	CertificateFile string         `yaml:"client-certificate"`
	CertificateData string         `yaml:"client-certificate-data"`
	KeyFile         string         `yaml:"client-key"`
	KeyData         string         `yaml:"client-key-data"`
	Username        string         `yaml:"username"`
	Password        string         `yaml:"password"`
	Exec            map[string]any `yaml:"exec"`
	Provider        map[string]any `yaml:"auth-provider"`
}

// fromKubeconfig is the cluster of a file's current context.
func fromKubeconfig(path string) (cluster, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return cluster{}, fmt.Errorf("the kubeconfig file cannot be read: %w", err)
	}
	c, err := parseKubeconfig(text, filepath.Dir(path))
	if err != nil {
		return cluster{}, fmt.Errorf("the kubeconfig file %s cannot be used: %w", path, err)
	}
	return c, nil
}

// parseKubeconfig reads a kubeconfig file's text. Paths in it are relative to folder.
func parseKubeconfig(text []byte, folder string) (cluster, error) {
	var k kubeconfig
	if err := yaml.Unmarshal(text, &k); err != nil {
		return cluster{}, err
	}
	current := k.CurrentContext
	if current == "" && len(k.Contexts) == 1 {
		current = k.Contexts[0].Name
	}
	if current == "" {
		return cluster{}, errors.New("it has no current-context; choose one with kubectl config use-context")
	}
	for _, context := range k.Contexts {
		if context.Name != current {
			continue
		}
		c := cluster{namespace: context.Context.Namespace}
		if err := c.useCluster(&k, context.Context.Cluster, folder); err != nil {
			return cluster{}, err
		}
		if err := c.useUser(&k, context.Context.User, folder); err != nil {
			return cluster{}, err
		}
		return c, nil
	}
	return cluster{}, fmt.Errorf("its current-context %q is not among its contexts", current)
}

func (c *cluster) useCluster(k *kubeconfig, name, folder string) (err error) {
	for _, item := range k.Clusters {
		if item.Name != name {
			continue
		}
		from := item.Cluster
		c.server, c.serverName, c.insecure, c.proxy = from.Server, from.ServerName, from.Insecure, from.Proxy
		c.caFile, c.ca, err = material(from.CAFile, from.CAData, folder, "certificate-authority-data")
		return err
	}
	return fmt.Errorf("the cluster %q of its current context is not among its clusters", name)
}

func (c *cluster) useUser(k *kubeconfig, name, folder string) (err error) {
	if name == "" {
		return nil
	}
	for _, item := range k.Users {
		if item.Name != name {
			continue
		}
		from := item.User
		c.token, c.username, c.password = from.Token, from.Username, from.Password
		if from.TokenFile != "" {
			c.tokenFile = within(folder, from.TokenFile)
		}
		if c.certificateFile, c.certificate, err = material(from.CertificateFile, from.CertificateData, folder, "client-certificate-data"); err != nil {
			return err
		}
		if c.keyFile, c.key, err = material(from.KeyFile, from.KeyData, folder, "client-key-data"); err != nil {
			return err
		}
		known := c.token != "" || c.tokenFile != "" || c.certificateFile != "" || len(c.certificate) > 0 || c.username != ""
		if !known && (len(from.Exec) > 0 || len(from.Provider) > 0) {
			return fmt.Errorf("the user %q gets its credentials from a program (exec or auth-provider), which is not supported here; make a user with a token, such as one of kubectl create token", name)
		}
		c.account = name
		return nil
	}
	return fmt.Errorf("the user %q of its current context is not among its users", name)
}

// material is what a kubeconfig holds as a file or as base64, of which the latter counts.
func material(file, data, folder, name string) (path string, content []byte, err error) {
	if data == "" {
		if file == "" {
			return "", nil, nil
		}
		return within(folder, file), nil, nil
	}
	content, err = base64.StdEncoding.DecodeString(data)
	if err != nil {
		return "", nil, fmt.Errorf("its %s is not base64: %w", name, err)
	}
	return "", content, nil
}

func within(folder, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}
