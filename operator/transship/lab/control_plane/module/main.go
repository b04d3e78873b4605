// Command controlplane is kube-apiserver or kube-controller-manager, by the name it is called by.
//
// No package registry ships these two as binaries, but the Go module proxy has their source as an
// ordinary module; one program with both links in seconds what two would compile twice.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	default:
		fmt.Fprintf(os.Stderr, "called as %q: link it as kube-apiserver or kube-controller-manager\n", name)
		os.Exit(2)
	}
}
