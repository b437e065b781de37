// Prints what kstatus concludes about Kubernetes objects: reads JSON objects from standard input and prints
// one line per object, either a status such as InProgress or `error: ` and the reason.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	objects := json.NewDecoder(os.Stdin)
	for {
		var text json.RawMessage
		if err := objects.Decode(&text); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "kstatus: standard input:", err)
			os.Exit(1)
		}
		fmt.Println(conclusion(text))
	}
}

func conclusion(text []byte) string {
	var object unstructured.Unstructured
	if err := object.UnmarshalJSON(text); err != nil {
		return fmt.Sprintf("error: %q", err)
	}
	result, err := status.Compute(&object)
	if err != nil {
		return fmt.Sprintf("error: %q", err)
	}
	return result.Status.String()
}
